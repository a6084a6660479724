"""`befriend text demo`: trains and evaluates the text towers on the embedded sample, in a few minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import typer

from befriend import files
from befriend.data.columns import STATEMENT, TIMESTAMP, USER_ID
from befriend.text import text_metrics as protocols
from befriend.text.chunks import UserData, as_statement
from befriend.text.text_baselines import (
    Scores,
    frozen_encoder,
    full_text,
    halves,
    popularity_scores,
    tfidf_scores,
    tfidf_vectors,
)
from befriend.text.text_evaluator import UniversalUserEmbeddingEvaluator, truth
from befriend.text.text_settings import EmbedTextSettings
from befriend.text.text_snapshots import posts_of, users_before
from befriend.text.text_trainer import UniversalUserEmbeddingTrainer

UNSEEN = 0.2  # share of the statements that training never sees
LATE = 2**40  # a cutoff after every text
MAP, REPORT, FIGURES = "map.png", "report.md", "figures.json"


def demo(source: Path, out: Path, cache: Path, seed: int) -> None:
    """Trains on the texts and statements in a folder, and writes towers, figures, a map and a report to `out`."""
    # With a few dozen statements, layers that learn fast forget what the encoder knows of all others.
    config = EmbedTextSettings(seed=seed, head_rate=10).model_config_of()
    users = read(source, config)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(users))
    splits = np.split(order, [len(users) // 5, len(users) * 3 // 10])
    test, validation, train = ([users[k] for k in indices] for indices in splits)
    pool = sorted({as_statement(s).text for user in users for s in user.statements})
    unseen = set(rng.permutation(pool)[: max(1, round(UNSEEN * len(pool)))].tolist())
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
        tfidf, (older, newer) = tfidf_vectors(train), halves(test)
        author_scores = {
            "trained": towers.get_user_embeddings(older).numpy() @ towers.get_user_embeddings(newer).numpy().T,
            "TF-IDF": (tfidf(list(map(full_text, older))) @ tfidf(list(map(full_text, newer))).T).toarray(),
            "mean of the frozen encoder": plain_users(older) @ plain_users(newer).T,
        }
        for name, table in author_scores.items():
            figures[name] |= {f"authors {figure}": value for figure, value in protocols.authors(table).items()}
        figures["trained"] |= {f"users {name}": value for name, value in towers.evaluate_user_similarity(test).items()}
        statement_similarity = towers.evaluate_statement_similarity(test, pool)
        figures["trained"] |= {f"statements {name}": value for name, value in statement_similarity.items()}
        shape = towers.analyze_embedding_space(test, pool)
        figures["trained"] |= {f"space {name}": value for name, value in shape.items()}
        draw_map(towers, test, folder / MAP)
        files.write_text(folder / REPORT, report(figures, towers, test, pool, unseen))
        files.write_json(folder / FIGURES, {name: protocols.rounded(row) for name, row in figures.items()})
    typer.echo((out / REPORT).read_text(encoding="utf-8"))
    typer.echo(f"Everything is in {out}.")


def read(source: Path, config: Any) -> list[UserData]:
    """Users with texts, from texts.parquet and statements.parquet of a simulated log."""
    texts = pl.read_parquet(source / "texts.parquet").sort(USER_ID, TIMESTAMP, maintain_order=True)
    table = pl.read_parquet(source / "statements.parquet")
    posts = posts_of(texts[USER_ID].to_numpy(), texts[TIMESTAMP], texts["platform"], texts["text"], config)
    statements = [(user, statement, "") for user, statement in table.select(USER_ID, STATEMENT).iter_rows()]
    return users_before(posts, statements, LATE, config)


def _without(user: UserData, statements: set[str]) -> UserData:
    remaining = [s for s in user.statements if as_statement(s).text not in statements]
    return UserData(user.user_id, user.chunks, remaining)


def measured(
    scores: Scores, test: list[UserData], validation: list[UserData], pool: list[str], unseen: list[str]
) -> dict[str, float]:
    """Retrieval among all statements, and zero-shot inference of those that training never saw."""
    figures = {
        f"retrieval {name}": value
        for name, value in protocols.retrieval(scores(test, pool), truth(test, pool), (10,)).items()
    }
    threshold = protocols.best_threshold(scores(validation, unseen), truth(validation, unseen))
    zero_shot = protocols.zero_shot(scores(test, unseen), truth(test, unseen), threshold)
    return figures | {f"zero-shot {name}": value for name, value in zero_shot.items()}


def draw_map(towers: UniversalUserEmbeddingEvaluator, users: list[UserData], path: Path) -> None:
    """Users in the plane of the first two principal axes, the most common statements in colour."""
    import matplotlib.pyplot as plt

    vectors = towers.get_user_embeddings(users).numpy()
    centred = vectors - vectors.mean(0)
    points = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    statements = pl.Series("text", [as_statement(s).text for user in users for s in user.statements], dtype=pl.String)
    common = statements.value_counts().sort("count", "text", descending=[True, False])["text"].head(6)
    figure, axes = plt.subplots(figsize=(8, 6), layout="constrained")
    axes.scatter(*points.T, s=8, color="lightgrey")
    for k, statement in enumerate(common):
        mask = [statement in {as_statement(s).text for s in user.statements} for user in users]
        axes.scatter(*points[mask].T, s=18, color=f"C{k}", label=statement)
    axes.legend(frameon=False, fontsize=8)
    axes.set(title="Users by what they wrote", xticks=[], yticks=[])
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def report(
    figures: dict[str, dict[str, float]],
    towers: UniversalUserEmbeddingEvaluator,
    test: list[UserData],
    pool: list[str],
    unseen: set[str],
) -> str:
    """Figures of the towers and the baselines, likely statements of an example user, and similar statements."""
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
