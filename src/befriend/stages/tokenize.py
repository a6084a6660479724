"""Stage tokenize: a code of tokens for every user of the training part, and what it takes to code those to come."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from befriend import files
from befriend.data.log import EVENTS_FILE, EventLog
from befriend.data.split import read_split
from befriend.data.texts import MOMENTS_FILE, TextVectors
from befriend.tokens import folder, residual_kmeans
from befriend.tokens.catalogue import agreement, communities, describe
from befriend.tokens.figures import draw_map, draw_use, place_users
from befriend.tokens.folder import Tokens
from befriend.tokens.quantizer import Quantizer
from befriend.tokens.settings import TokenizeSettings
from befriend.tokens.table import Table
from befriend.tokens.user_vectors import Graph, Spectrum
from befriend.training.reproducible import limited

USE_FIGURE, MAP_FIGURE, MAP_FILE, REPORT = "use.png", "map.png", "map.csv", "report.md"


@dataclass(frozen=True)
class TokenizeResult:
    users: int
    vocabulary: tuple[int, ...]
    unique_share: float
    homogeneity: float

    def summary(self) -> str:
        return (
            f"{self.users:,} users, {' x '.join(map(str, self.vocabulary))} tokens; {self.unique_share:.1%} of the "
            f"plain codes were unique, all STUs are; first tokens lie within communities to {self.homogeneity:.2f}"
        )


def run(settings: TokenizeSettings, prepared: Path, models: Path, reports: Path, checkpoints: Path) -> TokenizeResult:
    """Reads the prepared log; writes the folder tokens to `models`, and tokens.json and tokens/ to `reports`.

    Looks at the events of the training part alone. An RQ-VAE goes on from what lies in checkpoints/ for the same
    inputs and settings.
    """
    with limited(settings.threads):
        return _run(settings, prepared, models, reports, checkpoints)


def _run(settings: TokenizeSettings, prepared: Path, models: Path, reports: Path, checkpoints: Path) -> TokenizeResult:
    log = EventLog.read(prepared)
    split, texts = read_split(prepared, log), TextVectors.read(models / "text", log)
    end = split.part("train")[1]
    events = np.arange(end)
    users = int(max(log.actor[:end].max(initial=-1), log.target[:end].max(initial=-1))) + 1
    data = files.sha256(prepared / EVENTS_FILE)
    written = files.sha256(models / "text" / MOMENTS_FILE)
    inputs = f"{data} {written} {split.to_json()} {settings.model_dump_json()}"
    digest = hashlib.sha256(inputs.encode()).hexdigest()[:16]
    kept = checkpoints / "tokenize" / digest

    until = int(log.timestamp[:end].max(initial=0))
    graph = Graph(settings.half_life, settings.action_weights).adjacency(log, events, until)[:users, :users].tocsr()
    with files.atomic(reports / "tokens") as drawn:
        drawn.mkdir()
        if settings.previous:
            tokens = folder.load(Path(settings.previous), log, texts).extended(log, end)
            vectors = tokens.vectors(log, events, np.arange(len(tokens.table)))
        else:
            spectrum = Spectrum.of(graph, settings.dimensions, settings.seed)
            spectral = torch.from_numpy(spectrum.place(graph))
            cut = np.full(users, split.t_validation)
            vectors = folder.user_vectors(spectral, settings, log, np.arange(users), texts, cut)
            quantizer = fit_quantizer(settings, vectors, kept, drawn)
            sizes = quantizer.sizes + ((settings.digits,) if settings.collisions == "digit" else ())
            nobody = Table(torch.zeros(0, len(sizes), dtype=torch.long), sizes)
            tokens = Tokens(settings, spectrum, quantizer, nobody, log.lineage(users), data, split.t_validation, texts)
            tokens = tokens.with_users(vectors, log)
        stus, vocabulary = tokens.table.stus[:users], tokens.table.vocabulary
        figures = describe(tokens.quantizer, vectors[:users], stus, vocabulary)
        groups = communities(graph, settings.seed)
        figures["communities"] = agreement(stus[:, 0].numpy(), groups, settings.seed)
        figures["communities"]["count"] = len(np.unique(groups))
        draw_use(stus, vocabulary, drawn / USE_FIGURE)
        places = place_users(tokens.quantizer, vectors[:users], stus[:, 0], settings.seed)
        places.write_csv(drawn / MAP_FILE)
        title = f"{places.height:,} users by their first token ({vocabulary[0]} codes)"
        draw_map(places, vocabulary[0], title, settings.seed, drawn / MAP_FIGURE)
        files.write_text(drawn / REPORT, report(figures, vocabulary))
    folder.save(models / "tokens", tokens, log.user_ids)
    files.write_json(reports / "tokens.json", figures)
    files.remove(kept.parent)
    return TokenizeResult(
        len(tokens.table), vocabulary, figures["before"]["unique_share"], figures["communities"]["homogeneity"]
    )


def fit_quantizer(settings: TokenizeSettings, vectors: Tensor, checkpoints: Path, drawn: Path) -> Quantizer:
    """vectors: float32[n, D]. An RQ-VAE keeps its checkpoints in one folder and draws its curves below the other."""
    sizes = settings.sizes(len(vectors))
    if settings.quantizer == "residual_kmeans":
        return residual_kmeans.fit(vectors, sizes, settings.iterations, settings.seed, settings.threads)
    from befriend.tokens.rqvae import RqVaeTrainee
    from befriend.training.loop import fit
    from befriend.training.settings import TrainingSettings

    trainee = RqVaeTrainee(vectors, sizes, settings)
    training = TrainingSettings(
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        patience=None,
        seed=settings.seed,
        threads=settings.threads,
    )
    fit(trainee, training, checkpoints, drawn / "training")
    return trainee.quantizer()


def report(figures: dict[str, Any], vocabulary: tuple[int, ...]) -> str:
    """The metrics file, to be read."""
    before, after, groups = figures["before"], figures["after"], figures["communities"]
    lines = [
        "# STUs",
        "",
        f"{figures['users']:,} users of the training part, {' x '.join(f'{size:,}' for size in vocabulary)} tokens. "
        f"Of the plain codes {before['unique_share']:.1%} were distinct; {before['collision_rate']:.1%} of the users "
        f"shared theirs, {before['largest_bucket']:,.0f} at most one. {after['moved_share']:.1%} were moved, and every "
        "STU is one user's.",
        "",
        f"First tokens lie within the {groups['count']:,} communities of the graph to {groups['homogeneity']:.2f} "
        f"(homogeneity; shuffled users: {groups['shuffled']:.2f}).",
        "",
        "| level | codes | in use | perplexity | variance left over |",
        "|---:|---:|---:|---:|---:|",
    ]
    for level, size in enumerate(vocabulary):
        row = figures["level"][str(level)]
        error = f"{row['error']:.1%}" if "error" in row else ""
        lines.append(f"| {level} | {size:,} | {row['used_share']:.1%} | {row['perplexity']:,.1f} | {error} |")
    lines += ["", f"![users of each code]({USE_FIGURE})", "", f"![users by first token]({MAP_FIGURE})"]
    return "\n".join(lines) + "\n"
