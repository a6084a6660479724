"""The text towers beside simple baselines, on tables of posts: user_id, timestamp, title, tags, text.

python bench/texts.py FILE... [--seeds 3] [--set NAME=VALUE] [--part test] [--json FILE]

A fifth of the users are for testing, a tenth for validation; nothing of theirs is learned from. A user is read by the
earlier half of their posts, without titles and tags. What is to be found, from all statements of these users: titles
and tags of those posts (said), titles and tags of the later half (later), the later half itself (authors). A fifth of
all statements, seeded, is in no training: for zero-shot inference. Beside the towers stand two whose sides share
the head, which is all but the weighing of chunks.
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
    protocols,
)
from befriend.text.baselines import frozen, popularity, tfidf, tfidf_vectors, whole
from befriend.text.data import Post, UserChunk, cut, pack
from befriend.text.encoder import Words
from befriend.text.evaluator import truth

CONFIG = ModelConfig(
    user_model_name="minilm",
    item_model_name="minilm",
    lexical_dim=4096,
    embedding_dim=4480,  # all that is read fits
    batch_size=64,
)
CACHE = Path(".cache/text")


@dataclass(frozen=True)
class Person:
    """Somebody's posts: chunks and statements of the earlier and of the later half."""

    name: str
    chunks: tuple[list[UserChunk], list[UserChunk]]
    said: tuple[list[str], list[str]]

    def data(self, half: int | None, said: int | None = None, without: frozenset[str] = frozenset()) -> UserData:
        chunks = self.chunks[0] + self.chunks[1] if half is None else self.chunks[half]
        own = self.said[0] + self.said[1] if said is None else self.said[said]
        return UserData(self.name, chunks, [s for s in dict.fromkeys(own) if s not in without])


def people_of(path: Path, config: ModelConfig) -> list[Person]:
    table = pl.read_parquet(path).sort("user_id", "timestamp", "post_id")
    texts = table["text"].fill_null("").to_list()
    pieces = cut(texts, Words(config.user_model_name).offsets, config.max_chunk_length)
    rows: dict[Any, list[int]] = {}
    for k, user in enumerate(table["user_id"]):
        rows.setdefault(user, []).append(k)
    second, title, tags = (table[name].to_list() for name in ("timestamp", "title", "tags"))

    def half(some: Sequence[int]) -> tuple[list[UserChunk], list[str]]:
        posts = [Post(text, "", second[k], tokens) for k in some for text, tokens in pieces[k]]
        said = [title[k] for k in some if title[k]]
        said += [
            f"interested in {tag.replace('-', ' ')}"
            for k in some
            for tag in (tags[k] or "").strip("<>").split("><")
            if tag
        ]
        return pack(posts, config.max_chunk_length), said

    found = []
    for user, own in rows.items():
        k = max(1, len(own) // 2)
        earlier, later = half(own[:k]), half(own[k:])
        found.append(Person(str(user), (earlier[0], later[0]), (earlier[1], later[1])))
    return found


Scores = Callable[[list[UserData], list[str]], np.ndarray]
Vectors = Callable[[Any], np.ndarray]
FROZEN = "mean of the frozen encoder"
Likeness = Callable[[list[UserData], list[UserData]], np.ndarray]


def measured(
    test: list[Person], validation: list[Person], unseen: frozenset[str], scores: Scores, likeness: Likeness
) -> dict[str, float]:
    found: dict[str, float] = {}
    for part, half in (("said", 0), ("later", 1)):
        users = [user for p in test if p.chunks[0] and (user := p.data(0, half)).statements]
        pool = sorted({str(s) for user in users for s in user.statements})
        table, true = scores(users, pool), truth(users, pool)
        figures = protocols.retrieval(table, true)
        found |= {f"{part} {name}": figures[name] for name in ("precision@10", "recall@10", "f1@10", "ndcg@10", "mrr")}
        new = np.array([s in unseen for s in pool])
        checked = [user for p in validation if p.chunks[0] and (user := p.data(0, half)).statements]
        asked = sorted({str(s) for user in checked for s in user.statements if s in unseen})
        threshold = protocols.best_threshold(scores(checked, asked), truth(checked, asked))
        zero = protocols.zero_shot(table[:, new], true[:, new], threshold)
        found |= {f"{part} zero-shot {name}": value for name, value in zero.items()}
    both = [p for p in test if p.chunks[0] and p.chunks[1]]
    figures = protocols.authors(likeness([p.data(0) for p in both], [p.data(1) for p in both]))
    return found | {f"authors {name}": value for name, value in figures.items()}


def spaces(
    test: list[Person], users: Callable[[list[UserData]], np.ndarray], items: Callable[[list[str]], np.ndarray]
) -> dict[str, float]:
    people = [user for p in test if p.chunks[0] and (user := p.data(0, 0)).statements]
    pool = sorted({str(s) for user in people for s in user.statements})
    true, one, other = truth(people, pool), users(people), items(pool)
    found = {f"users {name}": value for name, value in protocols.similarity(one, true).items()}
    found |= {f"statements {name}": value for name, value in protocols.similarity(other, true.T).items()}
    return found | {f"space {name}": value for name, value in protocols.space(one, other, true).items()}


def one_run(
    path: Path, people: list[Person], config: ModelConfig, seed: int, part: str, folder: Path
) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(people))
    test, validation, train = (
        [people[k] for k in some] for some in np.split(order, [len(people) // 5, len(people) * 3 // 10])
    )
    if part == "validation":
        test = validation
    everything = sorted({s for p in people for half in p.said for s in half})
    unseen = frozenset(s for s, out in zip(everything, rng.random(len(everything)) < 0.2, strict=True) if out)
    config = config.model_copy(update={"seed": seed})
    learned = [p.data(None, None, unseen) for p in train]
    held = [p.data(0, 0, unseen) for p in validation]
    rows: dict[str, tuple[Scores, Likeness]] = {}
    seconds: dict[str, float] = {}
    towers: dict[str, tuple[Vectors, Vectors]] = {}
    for name in ("separate towers", "one shared tower"):
        out = folder / f"{path.stem}-{seed}-{name.split()[0]}"
        trainer = UniversalUserEmbeddingTrainer(config, learned, held, output=out, cache=CACHE)
        if name == "one shared tower":
            trainer.model.item.head = trainer.model.user.head
        start = time.perf_counter()
        fitted = trainer.train()
        seconds[name] = (time.perf_counter() - start) / (fitted.epochs if fitted else 1)
        told = f"best epoch {fitted.best_epoch if fitted else 0}, {seconds[name]:.1f} s an epoch"
        print(f"{path.stem}, seed {seed}, {name}: {told}", file=sys.stderr, flush=True)
        towers[name] = in_use(UniversalUserEmbeddingEvaluator(out, CACHE))
    towers[FROZEN] = frozen(trainer.corpus)
    for name, (users, items) in towers.items():
        rows[name] = (scored(users, items), alike(users))
    words = tfidf_vectors(learned)
    rows["TF-IDF"] = (
        tfidf(learned),
        lambda a, b: (words(list(map(whole, a))) @ words(list(map(whole, b))).T).toarray(),
    )
    rows["popularity"] = (popularity(learned), lambda one, other: np.zeros((len(one), len(other))))
    found = {name: measured(test, validation, unseen, *both) for name, both in rows.items()}
    for name, (users, items) in towers.items():
        found[name] |= spaces(test, users, items)
    for name, spent in seconds.items():
        found[name]["seconds an epoch"] = spent
    return found


def in_use(towers: UniversalUserEmbeddingEvaluator) -> tuple[Vectors, Vectors]:
    return (
        lambda users: towers.get_user_embeddings(users).numpy(),
        lambda pool: towers.get_statement_embeddings(pool).numpy(),
    )


def scored(users: Vectors, items: Vectors) -> Scores:
    return lambda some, pool: users(some) @ items(pool).T


def alike(users: Vectors) -> Likeness:
    return lambda one, other: users(one) @ users(other).T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--part", choices=("test", "validation"), default="test")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    config = CONFIG.model_validate(CONFIG.model_dump() | dict(map(split_override, arguments.set)))
    found: dict[str, list[dict[str, dict[str, float]]]] = {}
    with TemporaryDirectory() as name:
        for path in arguments.files:
            people = people_of(path, config)
            runs = [one_run(path, people, config, seed, arguments.part, Path(name)) for seed in range(arguments.seeds)]
            found[path.stem] = runs
            print(f"\n{path.stem}: {len(people):,} users\n")
            names = list(runs[0])
            print("| | " + " | ".join(names) + " |")
            print("|---|" + "---:|" * len(names))
            for figure in runs[0]["separate towers"]:
                cells = []
                for who in names:
                    values = [run[who][figure] for run in runs if figure in run[who]]
                    cells.append(f"{np.mean(values):.3f} ± {np.std(values):.3f}" if values else "")
                print(f"| {figure} | " + " | ".join(cells) + " |", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
