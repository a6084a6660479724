"""The text towers compared with simple baselines, on tables of posts.

    python bench/texts.py FILE... [--seeds 3] [--set NAME=VALUE] [--part test] [--json FILE]

Each FILE is a Parquet table with columns user_id, post_id, timestamp, title, tags, text. A fifth of the users are for
testing, a tenth for validation; nothing is learned from either. A user is represented by the earlier half of their
posts, without titles and tags. The tasks are to find, among all statements of the tested users, the titles and tags of
these posts (said), and the titles and tags of the later half (later); and, among all tested users, the later half of
the same user's posts (authors). A fifth of all statements, drawn with the seed, is in no training: for zero-shot
inference. The towers are also compared with towers whose sides share the head, which is everything but the weighting of
chunks.

Prints a Markdown table for each file, a row for each metric: mean and standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

from befriend.settings import split_override
from befriend.text import (
    ModelConfig,
    UniversalUserEmbeddingEvaluator,
    UniversalUserEmbeddingTrainer,
    UserData,
    text_metrics,
)
from befriend.text.chunks import PostPiece, UserChunk, cut_into_pieces, pack_pieces
from befriend.text.text_baselines import frozen_encoder, full_text, popularity_scores, tfidf_scores, tfidf_vectors
from befriend.text.text_encoder import TokenOffsets
from befriend.text.text_evaluator import true_statement_mask

CONFIG = ModelConfig(
    user_model_name="minilm",
    item_model_name="minilm",
    lexical_dim=4096,
    embedding_dim=4480,  # encoder and word columns fit without compression
    batch_size=64,
)
CACHE = Path(".cache/text")


@dataclass(frozen=True)
class HalvedUser:
    """Chunks and statements of a user, each for the earlier and the later half of their posts."""

    name: str
    chunks: tuple[list[UserChunk], list[UserChunk]]
    statements: tuple[list[str], list[str]]

    def data(
        self, half: int | None, statement_half: int | None = None, excluded: frozenset[str] = frozenset()
    ) -> UserData:
        """Chunks of one half (0 or 1) and statements of one half, None for both, without the excluded statements."""
        chunks = self.chunks[0] + self.chunks[1] if half is None else self.chunks[half]
        statements = (
            self.statements[0] + self.statements[1] if statement_half is None else self.statements[statement_half]
        )
        return UserData(self.name, chunks, [s for s in dict.fromkeys(statements) if s not in excluded])


def read_users(path: Path, config: ModelConfig) -> list[HalvedUser]:
    table = pl.read_parquet(path).sort("user_id", "timestamp", "post_id")
    texts = table["text"].fill_null("").to_list()
    pieces = cut_into_pieces(texts, TokenOffsets(config.user_model_name).offsets, config.max_chunk_length)
    rows_of_user: dict[Any, list[int]] = {}
    for k, user in enumerate(table["user_id"]):
        rows_of_user.setdefault(user, []).append(k)
    second, title, tags = (table[name].to_list() for name in ("timestamp", "title", "tags"))

    def chunks_and_statements(rows: Sequence[int]) -> tuple[list[UserChunk], list[str]]:
        posts = [PostPiece(text, "", second[k], tokens) for k in rows for text, tokens in pieces[k]]
        statements = [title[k] for k in rows if title[k]]
        statements += [
            f"interested in {tag.replace('-', ' ')}"
            for k in rows
            for tag in (tags[k] or "").strip("<>").split("><")
            if tag
        ]
        return pack_pieces(posts, config.max_chunk_length), statements

    users = []
    for user, rows in rows_of_user.items():
        k = max(1, len(rows) // 2)
        earlier, later = chunks_and_statements(rows[:k]), chunks_and_statements(rows[k:])
        users.append(HalvedUser(str(user), (earlier[0], later[0]), (earlier[1], later[1])))
    return users


Scores = Callable[[list[UserData], list[str]], np.ndarray]
Embed = Callable[[Any], np.ndarray]
FROZEN = "mean of the frozen encoder"
Similarity = Callable[[list[UserData], list[UserData]], np.ndarray]


def task_metrics(
    test: list[HalvedUser],
    validation: list[HalvedUser],
    unseen: frozenset[str],
    scores: Scores,
    similarity: Similarity,
) -> dict[str, float]:
    """Metrics of all tasks for one method. unseen: statements of no training user; scores: of statements for users;
    similarity: of users to users."""
    metrics: dict[str, float] = {}
    for task, half in (("said", 0), ("later", 1)):
        users = [data for user in test if user.chunks[0] and (data := user.data(0, half)).statements]
        pool = sorted({str(s) for user in users for s in user.statements})
        table, relevance = scores(users, pool), true_statement_mask(users, pool)
        values = text_metrics.retrieval(table, relevance)
        metrics |= {f"{task} {name}": values[name] for name in ("precision@10", "recall@10", "f1@10", "ndcg@10", "mrr")}
        is_unseen = np.array([s in unseen for s in pool])
        validation_users = [data for user in validation if user.chunks[0] and (data := user.data(0, half)).statements]
        unseen_pool = sorted({str(s) for user in validation_users for s in user.statements if s in unseen})
        threshold = text_metrics.best_threshold(
            scores(validation_users, unseen_pool), true_statement_mask(validation_users, unseen_pool)
        )
        zero_shot = text_metrics.zero_shot(table[:, is_unseen], relevance[:, is_unseen], threshold)
        metrics |= {f"{task} zero-shot {name}": value for name, value in zero_shot.items()}
    with_both = [user for user in test if user.chunks[0] and user.chunks[1]]
    values = text_metrics.author_retrieval(
        similarity([user.data(0) for user in with_both], [user.data(1) for user in with_both])
    )
    return metrics | {f"authors {name}": value for name, value in values.items()}


def space_metrics(test: list[HalvedUser], embed_users: Embed, embed_statements: Embed) -> dict[str, float]:
    """Metrics of the shared space of users and statements."""
    users = [data for user in test if user.chunks[0] and (data := user.data(0, 0)).statements]
    pool = sorted({str(s) for user in users for s in user.statements})
    relevance, user_vectors, statement_vectors = (
        true_statement_mask(users, pool),
        embed_users(users),
        embed_statements(pool),
    )
    metrics = {f"users {name}": value for name, value in text_metrics.similarity(user_vectors, relevance).items()}
    metrics |= {
        f"statements {name}": value for name, value in text_metrics.similarity(statement_vectors, relevance.T).items()
    }
    return metrics | {
        f"space {name}": value
        for name, value in text_metrics.embedding_space(user_vectors, statement_vectors, relevance).items()
    }


def run_seed(
    path: Path, users: list[HalvedUser], config: ModelConfig, seed: int, part: str, folder: Path
) -> dict[str, dict[str, float]]:
    """Method -> metrics, for one random split of the users."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(users))
    test, validation, train = (
        [users[k] for k in rows] for rows in np.split(order, [len(users) // 5, len(users) * 3 // 10])
    )
    if part == "validation":
        test = validation
    statements = sorted({s for user in users for half in user.statements for s in half})
    unseen = frozenset(
        s for s, is_unseen in zip(statements, rng.random(len(statements)) < 0.2, strict=True) if is_unseen
    )
    config = config.model_copy(update={"seed": seed})
    train_data = [user.data(None, None, unseen) for user in train]
    validation_data = [user.data(0, 0, unseen) for user in validation]
    methods: dict[str, tuple[Scores, Similarity]] = {}
    seconds: dict[str, float] = {}
    towers: dict[str, tuple[Embed, Embed]] = {}
    for name in ("separate towers", "one shared tower"):
        output = folder / f"{path.stem}-{seed}-{name.split()[0]}"
        trainer = UniversalUserEmbeddingTrainer(config, train_data, validation_data, output=output, cache=CACHE)
        if name == "one shared tower":
            trainer.model.item.head = trainer.model.user.head
        start = time.perf_counter()
        fitted = trainer.train()
        seconds[name] = (time.perf_counter() - start) / (fitted.num_epochs if fitted else 1)
        summary = f"best epoch {fitted.best_epoch if fitted else 0}, {seconds[name]:.1f} s per epoch"
        print(f"{path.stem}, seed {seed}, {name}: {summary}", file=sys.stderr, flush=True)
        towers[name] = embedders(UniversalUserEmbeddingEvaluator(output, CACHE))
    towers[FROZEN] = frozen_encoder(trainer.corpus)
    for name, (embed_users, embed_statements) in towers.items():
        methods[name] = (dot_scores(embed_users, embed_statements), dot_similarity(embed_users))
    tfidf = tfidf_vectors(train_data)
    methods["TF-IDF"] = (
        tfidf_scores(train_data),
        lambda a, b: (tfidf(list(map(full_text, a))) @ tfidf(list(map(full_text, b))).T).toarray(),
    )
    methods["popularity"] = (popularity_scores(train_data), lambda a, b: np.zeros((len(a), len(b))))
    metrics = {name: task_metrics(test, validation, unseen, *functions) for name, functions in methods.items()}
    for name, (embed_users, embed_statements) in towers.items():
        metrics[name] |= space_metrics(test, embed_users, embed_statements)
    for name, per_epoch in seconds.items():
        metrics[name]["seconds an epoch"] = per_epoch
    return metrics


def embedders(towers: UniversalUserEmbeddingEvaluator) -> tuple[Embed, Embed]:
    """Functions that embed users and statements."""
    return (
        lambda users: towers.get_user_embeddings(users).numpy(),
        lambda pool: towers.get_statement_embeddings(pool).numpy(),
    )


def dot_scores(embed_users: Embed, embed_statements: Embed) -> Scores:
    return lambda users, pool: embed_users(users) @ embed_statements(pool).T


def dot_similarity(embed_users: Embed) -> Similarity:
    return lambda a, b: embed_users(a) @ embed_users(b).T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--part", choices=("test", "validation"), default="test")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    config = CONFIG.model_validate(CONFIG.model_dump() | dict(map(split_override, arguments.set)))
    results: dict[str, list[dict[str, dict[str, float]]]] = {}
    with TemporaryDirectory() as name:
        for path in arguments.files:
            users = read_users(path, config)
            runs = [run_seed(path, users, config, seed, arguments.part, Path(name)) for seed in range(arguments.seeds)]
            results[path.stem] = runs
            print(f"\n{path.stem}: {len(users):,} users\n")
            names = list(runs[0])
            print("| | " + " | ".join(names) + " |")
            print("|---|" + "---:|" * len(names))
            for metric in runs[0]["separate towers"]:
                cells = []
                for method in names:
                    values = [run[method][metric] for run in runs if metric in run[method]]
                    cells.append(f"{np.mean(values):.3f} ± {np.std(values):.3f}" if values else "")
                print(f"| {metric} | " + " | ".join(cells) + " |", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
