"""`befriend text demo`: trains and evaluates the text towers on the embedded sample, in a few minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import typer

from befriend import files
from befriend.data.columns import STATEMENT, TIMESTAMP, USER_ID
from befriend.plots import LIGHT, saved_figure
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
from befriend.text.text_evaluator import UniversalUserEmbeddingEvaluator, true_statement_mask
from befriend.text.text_settings import EmbedTextSettings
from befriend.text.text_snapshots import posts_by_user, users_before
from befriend.text.text_trainer import UniversalUserEmbeddingTrainer

UNSEEN_SHARE = 0.2  # share of the statements that are left out of training
FAR_FUTURE = 2**40  # a cutoff after all texts, UTC second
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
    train_seen = [_without(user, unseen) for user in train]
    typer.echo(f"{len(users):,} users, {len(pool)} statements, of which {len(unseen)} are not in training.", err=True)
    with files.atomic(out) as folder:
        folder.mkdir(parents=True)
        checkpoints = out.with_name(f".{out.name}.checkpoints")
        validation_seen = [_without(user, unseen) for user in validation]
        trainer = UniversalUserEmbeddingTrainer(
            config, train_seen, validation_seen, output=folder / "towers", checkpoints=checkpoints, cache=cache
        )
        trainer.train(folder / "training")
        towers = UniversalUserEmbeddingEvaluator(folder / "towers", cache)
        plain_users, plain_statements = frozen_encoder(trainer.corpus)
        methods: dict[str, Scores] = {
            "trained": towers.scores,
            "TF-IDF": tfidf_scores(train),
            "mean of the frozen encoder": lambda u, s: plain_users(u) @ plain_statements(s).T,
            "popularity": popularity_scores(train_seen),
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
        draw_map(towers, test, folder / MAP)
        files.write_text(folder / REPORT, report(figures, towers, test, pool, unseen))
        files.write_json(folder / FIGURES, {name: text_metrics.rounded(row) for name, row in figures.items()})
    typer.echo((out / REPORT).read_text(encoding="utf-8"))
    typer.echo(f"Towers, figures, map and report are in {out}.")


def read(source: Path, config: Any) -> list[UserData]:
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
    return "\n".join([*lines, "", f"![users by what they wrote]({MAP})"]) + "\n"
