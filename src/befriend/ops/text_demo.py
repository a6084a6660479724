"""`befriend text demo`: trains and evaluates the text towers on the embedded sample, in a few minutes."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import polars as pl
import typer

from befriend import files
from befriend.data.columns import STATEMENT, TIMESTAMP, USER_ID
from befriend.plots import LIGHT, saved_figure
from befriend.progress import note
from befriend.text import text_metrics
from befriend.text.chunks import UserData, as_statement
from befriend.text.text_baselines import (
    Scores,
    frozen_encoder,
    full_text,
    popularity_scores,
    split_chunks_by_time,
    tfidf_scores,
    tfidf_vectors,
)
from befriend.text.text_encoder import encode_all, load_encoder
from befriend.text.text_evaluator import UniversalUserEmbeddingEvaluator, true_statement_mask
from befriend.text.text_settings import EmbedTextSettings, ModelConfig
from befriend.text.text_snapshots import posts_by_user, users_before
from befriend.text.text_trainer import UniversalUserEmbeddingTrainer

UNSEEN_SHARE = 0.2  # share of the statements that are left out of training
FAR_FUTURE = 2**40  # a cutoff after all texts, UTC second
NUM_PROBE_TEXTS = 64  # texts that are encoded to see how fast this machine is
EPOCH_COST = 0.3  # time of an epoch of training, relative to the time in which all texts are encoded
MAP, REPORT, FIGURES = "map.png", "report.md", "figures.json"


def demo(source: Path, out: Path, cache: Path, seed: int) -> None:
    """Trains on texts and statements of the folder `source`; writes towers, figures, a map and a report to `out`."""
    # With few statements, a high learning rate destroys what the encoder knows about other statements.
    config = EmbedTextSettings(seed=seed, head_rate=10).model_config_only()
    users = read(source, config)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(users))
    splits = np.split(order, [len(users) // 5, len(users) * 3 // 10])
    test, validation, train = ([users[k] for k in indices] for indices in splits)
    pool = sorted({as_statement(s).text for user in users for s in user.statements})
    unseen = set(rng.permutation(pool)[: max(1, round(UNSEEN_SHARE * len(pool)))].tolist())
    note(
        f"{len(users):,} users with {len(distinct_texts(users)):,} different texts, and {len(pool)} statements, of "
        f"which {len(unseen)} are not in training."
    )
    note(
        f"Encoding the texts and training for at most {config.num_epochs} epochs takes about "
        f"{duration(expected_seconds(users, config))} on this machine, as busy as it is now."
    )
    with files.atomic(out) as folder:
        folder.mkdir(parents=True)
        trainer = UniversalUserEmbeddingTrainer(
            config,
            [_without(user, unseen) for user in train],
            [_without(user, unseen) for user in validation],
            output=folder / "towers",
            checkpoints=out.with_name(f".{out.name}.checkpoints"),
            cache=cache,
        )
        note("The texts are encoded. Training:")
        trainer.train(folder / "training")
        note("Comparing the towers with simple methods, on users who are not in training")
        towers = UniversalUserEmbeddingEvaluator(folder / "towers", cache)
        figures = evaluate(towers, trainer, (train, validation, test), pool, unseen)
        draw_map(towers, test, folder / MAP)
        text = report(figures, towers, test, pool, unseen)
        files.write_text(folder / REPORT, f"{text}\n![users by what they wrote]({MAP})\n")
        files.write_json(folder / FIGURES, {name: text_metrics.rounded(row) for name, row in figures.items()})
    typer.echo(text)
    typer.echo(f"Report: {out / REPORT}\nMap of the test users: {out / MAP}\nTowers: {out / 'towers'}")


def distinct_texts(users: list[UserData]) -> list[str]:
    """The texts that have to be encoded, sorted."""
    return sorted({chunk.text for user in users for chunk in user.chunks})


def expected_seconds(users: list[UserData], config: ModelConfig) -> float:
    """Roughly how long encoding and training take, from the time that the encoder needs for some of the texts."""
    texts = distinct_texts(users)
    sample = texts[:: -(-len(texts) // NUM_PROBE_TEXTS)]
    encoder = load_encoder(config.user_model_name, config.max_chunk_length)
    encode_all(encoder, sample[:8])  # the first call takes longer
    start = time.perf_counter()
    encode_all(encoder, sample)
    seconds_per_text = (time.perf_counter() - start) / len(sample)
    return seconds_per_text * len(texts) * (1 + EPOCH_COST * config.num_epochs)


def duration(seconds: float) -> str:
    """A duration in words, in minutes from one and a half on."""
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{max(10, round(seconds, -1)):.0f} seconds"


def evaluate(
    towers: UniversalUserEmbeddingEvaluator,
    trainer: UniversalUserEmbeddingTrainer,
    splits: tuple[list[UserData], list[UserData], list[UserData]],
    pool: list[str],
    unseen: set[str],
) -> dict[str, dict[str, float]]:
    """Method -> metrics, of the towers and of simple methods. splits: training, validation and test users."""
    train, validation, test = splits
    plain_users, plain_statements = frozen_encoder(trainer.corpus)
    methods: dict[str, Scores] = {
        "trained": towers.scores,
        "TF-IDF": tfidf_scores(train),
        "mean of the frozen encoder": lambda u, s: plain_users(u) @ plain_statements(s).T,
        "popularity": popularity_scores([_without(user, unseen) for user in train]),
    }
    figures = {name: measured(scores, test, validation, pool, sorted(unseen)) for name, scores in methods.items()}
    tfidf, (older, newer) = tfidf_vectors(train), split_chunks_by_time(test)
    author_scores = {
        "trained": towers.get_user_embeddings(older).numpy() @ towers.get_user_embeddings(newer).numpy().T,
        "TF-IDF": (tfidf(list(map(full_text, older))) @ tfidf(list(map(full_text, newer))).T).toarray(),
        "mean of the frozen encoder": plain_users(older) @ plain_users(newer).T,
    }
    for name, table in author_scores.items():
        metrics = text_metrics.author_retrieval(table)
        figures[name] |= {f"authors {metric}": value for metric, value in metrics.items()}
    figures["trained"] |= {f"users {name}": value for name, value in towers.evaluate_user_similarity(test).items()}
    statement_similarity = towers.evaluate_statement_similarity(test, pool)
    figures["trained"] |= {f"statements {name}": value for name, value in statement_similarity.items()}
    shape = towers.analyze_embedding_space(test, pool)
    figures["trained"] |= {f"space {name}": value for name, value in shape.items()}
    return figures


def read(source: Path, config: ModelConfig) -> list[UserData]:
    """All users with texts, from texts.parquet and statements.parquet of a simulated log."""
    texts = pl.read_parquet(source / "texts.parquet").sort(USER_ID, TIMESTAMP, maintain_order=True)
    table = pl.read_parquet(source / "statements.parquet")
    posts = posts_by_user(texts[USER_ID].to_numpy(), texts[TIMESTAMP], texts["platform"], texts["text"], config)
    statements = [(user, statement, "") for user, statement in table.select(USER_ID, STATEMENT).iter_rows()]
    return users_before(posts, statements, FAR_FUTURE, config)


def _without(user: UserData, statements: set[str]) -> UserData:
    remaining = [s for s in user.statements if as_statement(s).text not in statements]
    return UserData(user.user_id, user.chunks, remaining)


def measured(
    scores: Scores, test: list[UserData], validation: list[UserData], pool: list[str], unseen: list[str]
) -> dict[str, float]:
    """Retrieval among all statements, and zero-shot inference of statements that are not in training."""
    figures = {
        f"retrieval {name}": value
        for name, value in text_metrics.retrieval(scores(test, pool), true_statement_mask(test, pool), (10,)).items()
    }
    threshold = text_metrics.best_threshold(scores(validation, unseen), true_statement_mask(validation, unseen))
    zero_shot = text_metrics.zero_shot(scores(test, unseen), true_statement_mask(test, unseen), threshold)
    return figures | {f"zero-shot {name}": value for name, value in zero_shot.items()}


def draw_map(towers: UniversalUserEmbeddingEvaluator, users: list[UserData], path: Path) -> None:
    """Draws users by the first two principal components, with the most common statements in colour."""
    vectors = towers.get_user_embeddings(users).numpy()
    centred = vectors - vectors.mean(0)
    points = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    statements = pl.Series("text", [as_statement(s).text for user in users for s in user.statements], dtype=pl.String)
    common = statements.value_counts().sort("count", "text", descending=[True, False])["text"].head(6)
    with saved_figure(path, width=8, height=6) as figure:
        axes = figure.subplots()
        axes.scatter(points[:, 0], points[:, 1], s=8, color=LIGHT.line)
        for statement, colour in zip(common, LIGHT.series, strict=False):
            mask = [statement in {as_statement(s).text for s in user.statements} for user in users]
            axes.scatter(points[mask, 0], points[mask, 1], s=18, color=colour, label=statement)
        axes.legend()
        axes.set(title="Users by what they wrote", xticks=[], yticks=[])


def report(
    figures: dict[str, dict[str, float]],
    towers: UniversalUserEmbeddingEvaluator,
    test: list[UserData],
    pool: list[str],
    unseen: set[str],
) -> str:
    """Metrics of towers and baselines, likely statements about an example user, and similar statements, as Markdown."""
    names = list(figures)
    lines = [
        "# Universal user embeddings on the embedded sample",
        "",
        f"{len(test):,} test users, who are not in training.",
        "",
    ]
    lines += [f"| | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    for figure in figures["trained"]:
        cells = (f"{figures[name][figure]:.3f}" if figure in figures[name] else "" for name in names)
        lines.append(f"| {figure} | {' | '.join(cells)} |")
    example = max(test, key=lambda user: (len(user.chunks), user.user_id))
    cosine = towers.scores([example], pool)[0]
    lines += ["", f"## Likely statements about user {example.user_id}", "", "They wrote:", ""]
    lines += [f"> {chunk.text.splitlines()[0]}" for chunk in list(example.chunks)[:3]]
    true_texts = {as_statement(s).text for s in example.statements}
    lines += ["", "| statement | cosine | true | in training |", "|---|---:|---|---|"]
    for k in np.argsort(-cosine)[:5]:
        true, seen = "yes" if pool[k] in true_texts else "", "" if pool[k] in unseen else "yes"
        lines.append(f"| {pool[k]} | {cosine[k]:.2f} | {true} | {seen} |")
    vectors = towers.get_statement_embeddings(pool).numpy()
    similarity = vectors @ vectors.T - 4 * np.eye(len(pool))
    lines += ["", "## Statements, each with the most similar one", ""]
    lines += [f"- {pool[k]}: {pool[int(similarity[k].argmax())]}" for k in range(min(8, len(pool)))]
    return "\n".join(lines) + "\n"
