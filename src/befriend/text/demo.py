"""`befriend text demo`: the whole of the text towers on the embedded sample, in a few minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import typer

from befriend import files
from befriend.data.columns import STATEMENT, TIMESTAMP, USER_ID
from befriend.text import protocols
from befriend.text.baselines import Scores, frozen, halves, popularity, tfidf, tfidf_vectors, whole
from befriend.text.data import UserData, as_statement
from befriend.text.evaluator import UniversalUserEmbeddingEvaluator, truth
from befriend.text.moments import posts_of, users_before
from befriend.text.settings import EmbedTextSettings
from befriend.text.trainer import UniversalUserEmbeddingTrainer

UNSEEN = 0.2  # share of the statements that no training sees
LATE = 2**40  # after everything
MAP, REPORT, FIGURES = "map.png", "report.md", "figures.json"


def demo(source: Path, out: Path, cache: Path, seed: int) -> None:
    """Trains on texts and statements of a folder, and writes towers, figures, a map and a report to `out`."""
    # With a few dozen statements, layers that learn fast forget what the encoder knows of all others.
    config = EmbedTextSettings(seed=seed, head_rate=10).model_config_of()
    users = read(source, config)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(users))
    parts = np.split(order, [len(users) // 5, len(users) * 3 // 10])
    test, validation, train = ([users[k] for k in part] for part in parts)
    pool = sorted({as_statement(s).text for user in users for s in user.statements})
    new = set(rng.permutation(pool)[: max(1, round(UNSEEN * len(pool)))].tolist())
    learned = [_without(user, new) for user in train]
    typer.echo(f"{len(users):,} users, {len(pool)} statements, of which {len(new)} are in no training.", err=True)
    with files.atomic(out) as folder:
        folder.mkdir(parents=True)
        kept = out.with_name(f".{out.name}.checkpoints")
        held = [_without(user, new) for user in validation]
        trainer = UniversalUserEmbeddingTrainer(
            config, learned, held, output=folder / "towers", checkpoints=kept, cache=cache
        )
        trainer.train(folder / "training")
        towers = UniversalUserEmbeddingEvaluator(folder / "towers", cache)
        plain_users, plain_statements = frozen(trainer.corpus)
        scores: dict[str, Scores] = {
            "trained": towers.scores,
            "TF-IDF": tfidf(train),
            "mean of the frozen encoder": lambda u, s: plain_users(u) @ plain_statements(s).T,
            "popularity": popularity(learned),
        }
        figures = {name: measured(of, test, validation, pool, sorted(new)) for name, of in scores.items()}
        words, (older, newer) = tfidf_vectors(train), halves(test)
        alike = {
            "trained": towers.get_user_embeddings(older).numpy() @ towers.get_user_embeddings(newer).numpy().T,
            "TF-IDF": (words(list(map(whole, older))) @ words(list(map(whole, newer))).T).toarray(),
            "mean of the frozen encoder": plain_users(older) @ plain_users(newer).T,
        }
        for name, table in alike.items():
            figures[name] |= {f"authors {figure}": value for figure, value in protocols.authors(table).items()}
        figures["trained"] |= {f"users {name}": value for name, value in towers.evaluate_user_similarity(test).items()}
        said = towers.evaluate_statement_similarity(test, pool)
        figures["trained"] |= {f"statements {name}": value for name, value in said.items()}
        shape = towers.analyze_embedding_space(test, pool)
        figures["trained"] |= {f"space {name}": value for name, value in shape.items()}
        draw_map(towers, test, folder / MAP)
        files.write_text(folder / REPORT, report(figures, towers, test, pool, new))
        files.write_json(folder / FIGURES, {name: protocols.rounded(row) for name, row in figures.items()})
    typer.echo((out / REPORT).read_text(encoding="utf-8"))
    typer.echo(f"Everything is in {out}.")


def read(source: Path, config: Any) -> list[UserData]:
    """Users with texts, from texts.parquet and statements.parquet of a simulated log."""
    texts = pl.read_parquet(source / "texts.parquet").sort(USER_ID, TIMESTAMP, maintain_order=True)
    said = pl.read_parquet(source / "statements.parquet")
    posts = posts_of(texts[USER_ID].to_numpy(), texts[TIMESTAMP], texts["platform"], texts["text"], config)
    told = [(user, statement, "") for user, statement in said.select(USER_ID, STATEMENT).iter_rows()]
    return users_before(posts, told, LATE, config)


def _without(user: UserData, statements: set[str]) -> UserData:
    kept = [s for s in user.statements if as_statement(s).text not in statements]
    return UserData(user.user_id, user.chunks, kept)


def measured(
    of: Scores, test: list[UserData], validation: list[UserData], pool: list[str], new: list[str]
) -> dict[str, float]:
    """Retrieval among all statements, and zero-shot inference of those that were in no training."""
    found = {f"retrieval {k}": v for k, v in protocols.retrieval(of(test, pool), truth(test, pool), (10,)).items()}
    threshold = protocols.best_threshold(of(validation, new), truth(validation, new))
    zero = protocols.zero_shot(of(test, new), truth(test, new), threshold)
    return found | {f"zero-shot {name}": value for name, value in zero.items()}


def draw_map(towers: UniversalUserEmbeddingEvaluator, users: list[UserData], path: Path) -> None:
    """Users in the plane of the first two principal axes, the commonest statements in colour."""
    import matplotlib.pyplot as plt

    vectors = towers.get_user_embeddings(users).numpy()
    centred = vectors - vectors.mean(0)
    place = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    known = pl.Series("text", [as_statement(s).text for user in users for s in user.statements], dtype=pl.String)
    common = known.value_counts().sort("count", "text", descending=[True, False])["text"].head(6)
    figure, axes = plt.subplots(figsize=(8, 6), layout="constrained")
    axes.scatter(*place.T, s=8, color="lightgrey")
    for k, statement in enumerate(common):
        own = [statement in {as_statement(s).text for s in user.statements} for user in users]
        axes.scatter(*place[own].T, s=18, color=f"C{k}", label=statement)
    axes.legend(frameon=False, fontsize=8)
    axes.set(title="Users by what they wrote", xticks=[], yticks=[])
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def report(
    figures: dict[str, dict[str, float]],
    towers: UniversalUserEmbeddingEvaluator,
    test: list[UserData],
    pool: list[str],
    new: set[str],
) -> str:
    """Figures beside the baselines, what is likely of somebody, and which statements lie close."""
    names = list(figures)
    lines = [
        "# Universal user embeddings on the embedded sample",
        "",
        f"{len(test):,} users who were not learned from.",
        "",
    ]
    lines += [f"| | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    for figure in figures["trained"]:
        cells = (f"{figures[name][figure]:.3f}" if figure in figures[name] else "" for name in names)
        lines.append(f"| {figure} | {' | '.join(cells)} |")
    example = max(test, key=lambda user: (len(user.chunks), user.user_id))
    told = towers.scores([example], pool)[0]
    lines += ["", f"## What is likely of {example.user_id}", "", "They wrote:", ""]
    lines += [f"> {chunk.text.splitlines()[0]}" for chunk in list(example.chunks)[:3]]
    own = {as_statement(s).text for s in example.statements}
    lines += ["", "| statement | cosine | true | in training |", "|---|---:|---|---|"]
    for k in np.argsort(-told)[:5]:
        true, seen = "yes" if pool[k] in own else "", "" if pool[k] in new else "yes"
        lines.append(f"| {pool[k]} | {told[k]:.2f} | {true} | {seen} |")
    vectors = towers.get_statement_embeddings(pool).numpy()
    near = vectors @ vectors.T - 4 * np.eye(len(pool))
    lines += ["", "## Statements and the one nearest to each", ""]
    lines += [f"- {pool[k]}: {pool[int(near[k].argmax())]}" for k in range(min(8, len(pool)))]
    return "\n".join([*lines, "", f"![users by what they wrote]({MAP})"]) + "\n"
