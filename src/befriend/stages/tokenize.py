"""Stage tokenize: assigns an STU to every user of the training part, and saves the tokenizer for users who join later.

An STU (social tokenized user id) is the semantic ID of a user: the codes of a residual quantizer, made unique.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from befriend import artifacts, files
from befriend.data.event_log import EVENTS_FILE, EventLog
from befriend.data.split import read_split
from befriend.features.text_vectors import VECTORS_FILE, TextVectors
from befriend.tokens import residual_kmeans
from befriend.tokens.codebook_metrics import communities, community_agreement, describe_codebooks
from befriend.tokens.quantizer import Quantizer
from befriend.tokens.stu_table import StuTable
from befriend.tokens.token_figures import draw_code_usage, draw_map, map_users_by_token
from befriend.tokens.token_settings import TokenizeSettings
from befriend.tokens.tokenizer import StuTokenizer, load_tokenizer, save_tokenizer, user_vectors
from befriend.tokens.user_vectors import InteractionGraph, SpectralEmbedding
from befriend.training.determinism import thread_limits

USE_FIGURE, MAP_FIGURE, MAP_FILE, REPORT = "use.png", "map.png", "map.csv", "report.md"


@dataclass(frozen=True)
class TokenizeResult:
    num_users: int
    vocabulary: tuple[int, ...]
    unique_share: float
    homogeneity: float

    def summary(self) -> str:
        return (
            f"{self.num_users:,} users, {' x '.join(map(str, self.vocabulary))} tokens; {self.unique_share:.1%} of the "
            f"codes were unique before collisions were resolved; homogeneity of first tokens with communities "
            f"{self.homogeneity:.2f}"
        )


def run(settings: TokenizeSettings, prepared: Path, models: Path, reports: Path, checkpoints: Path) -> TokenizeResult:
    """Reads the prepared log; writes the folder tokens to `models`, and tokens.json and tokens/ to `reports`.

    Only events of the training part are used. The training of an RQ-VAE resumes from `checkpoints` if they have the
    same inputs and settings.
    """
    with thread_limits(settings.threads):
        return _run(settings, prepared, models, reports, checkpoints)


def _run(settings: TokenizeSettings, prepared: Path, models: Path, reports: Path, checkpoints: Path) -> TokenizeResult:
    log = EventLog.read(prepared)
    split, texts = read_split(prepared, log), TextVectors.read(models / "text", log)
    end = split.part("train")[1]
    events = np.arange(end)
    num_users = int(max(log.actor[:end].max(initial=-1), log.target[:end].max(initial=-1))) + 1
    data = files.sha256(prepared / EVENTS_FILE)
    text_vectors = [models / "text" / VECTORS_FILE]
    digest = artifacts.fingerprint(models, text_vectors, data, f"{split.to_json()}", settings.model_dump_json())
    checkpoint = checkpoints / "tokenize" / digest[:16]

    last_timestamp = int(log.timestamp[:end].max(initial=0))
    graph = (
        InteractionGraph(settings.half_life, settings.action_weights)
        .adjacency(log, events, last_timestamp)[:num_users, :num_users]
        .tocsr()
    )
    with files.atomic(reports / "tokens") as report_folder:
        report_folder.mkdir()
        if settings.previous:
            tokenizer = load_tokenizer(Path(settings.previous), log, texts).add_users_until(log, end)
            vectors = tokenizer.vectors(log, events, np.arange(len(tokenizer.table)))
        else:
            spectrum = SpectralEmbedding.of(graph, settings.dimensions, settings.seed)
            spectral = torch.from_numpy(spectrum.embed(graph))
            cutoffs = np.full(num_users, split.t_validation)
            vectors = user_vectors(spectral, settings, log, np.arange(num_users), texts, cutoffs)
            quantizer = fit_quantizer(settings, vectors, checkpoint, report_folder)
            sizes = quantizer.sizes + ((settings.digits,) if settings.collisions == "digit" else ())
            empty_table = StuTable(torch.zeros(0, len(sizes), dtype=torch.long), sizes)
            tokenizer = StuTokenizer(
                settings, spectrum, quantizer, empty_table, log.lineage(num_users), data, split.t_validation, texts
            )
            tokenizer = tokenizer.add_training_users(vectors, log)
        stus, vocabulary = tokenizer.table.stus[:num_users], tokenizer.table.vocabulary
        figures = describe_codebooks(tokenizer.quantizer, vectors[:num_users], stus, vocabulary)
        groups = communities(graph, settings.seed)
        figures["communities"] = community_agreement(stus[:, 0].numpy(), groups, settings.seed)
        figures["communities"]["count"] = len(np.unique(groups))
        draw_code_usage(stus, vocabulary, report_folder / USE_FIGURE)
        points = map_users_by_token(tokenizer.quantizer, vectors[:num_users], stus[:, 0], settings.seed)
        points.write_csv(report_folder / MAP_FILE)
        title = f"{points.height:,} users by their first token ({vocabulary[0]} codes)"
        draw_map(points, vocabulary[0], title, report_folder / MAP_FIGURE)
        files.write_text(report_folder / REPORT, report(figures, vocabulary))
    save_tokenizer(models / "tokens", tokenizer, log.user_ids)
    files.write_json(reports / "tokens.json", figures)
    files.remove(checkpoint.parent)
    return TokenizeResult(
        len(tokenizer.table), vocabulary, figures["before"]["unique_share"], figures["communities"]["homogeneity"]
    )


def fit_quantizer(settings: TokenizeSettings, vectors: Tensor, checkpoints: Path, report_folder: Path) -> Quantizer:
    """The quantizer of the settings, fitted to vectors, float32[n, D].

    The training of an RQ-VAE writes checkpoints to `checkpoints`, and curves to training/ in `report_folder`.
    """
    sizes = settings.sizes(len(vectors))
    if settings.quantizer == "residual_kmeans":
        return residual_kmeans.fit_residual_kmeans(vectors, sizes, settings.iterations, settings.seed, settings.threads)
    from befriend.tokens.rqvae import RqVaeObjective
    from befriend.training.loop import fit
    from befriend.training.training_settings import TrainingSettings

    objective = RqVaeObjective(vectors, sizes, settings)
    training = TrainingSettings(
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        patience=None,
        seed=settings.seed,
        threads=settings.threads,
    )
    fit(objective, training, checkpoints, report_folder / "training")
    return objective.quantizer()


def report(figures: dict[str, Any], vocabulary: tuple[int, ...]) -> str:
    """The figures of tokens.json, as Markdown."""
    before, after, agreement = figures["before"], figures["after"], figures["communities"]
    lines = [
        "# STUs",
        "",
        f"{figures['users']:,} users of the training part, {' x '.join(f'{size:,}' for size in vocabulary)} tokens. "
        f"Before collisions were resolved, there were {before['unique_share']:.1%} as many distinct codes as users; "
        f"{before['collision_rate']:.1%} of the users shared their codes, at most {before['largest_bucket']:,.0f} the "
        f"same ones. {after['moved_share']:.1%} of the users got other codes, so that every STU belongs to one user.",
        "",
        f"The homogeneity of first tokens with the {agreement['count']:,} communities of the graph is "
        f"{agreement['homogeneity']:.2f} (shuffled users: {agreement['shuffled']:.2f}).",
        "",
        "| level | codes | in use | perplexity | residual variance |",
        "|---:|---:|---:|---:|---:|",
    ]
    for level, size in enumerate(vocabulary):
        row = figures["level"][str(level)]
        error = f"{row['error']:.1%}" if "error" in row else ""
        lines.append(f"| {level} | {size:,} | {row['used_share']:.1%} | {row['perplexity']:,.1f} | {error} |")
    lines += ["", f"![users of each code]({USE_FIGURE})", "", f"![users by first token]({MAP_FIGURE})"]
    return "\n".join(lines) + "\n"
