"""The tokens on disk, and everything it takes to give STUs to users who join later."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from befriend import files
from befriend.data.log import EventLog, first_seen
from befriend.data.texts import TextVectors, first_moments
from befriend.errors import DataError
from befriend.tokens.collisions import reassigned, with_digit
from befriend.tokens.quantizer import Quantizer
from befriend.tokens.settings import TokenizeSettings
from befriend.tokens.table import Table
from befriend.tokens.trie import Trie
from befriend.tokens.user_vectors import Graph, Spectrum

LATEST = 2**40  # later than any second
TABLE_FILE, TRIE_FILE, CODEBOOKS_FILE, ABOUT_FILE = (
    "table.parquet",
    "trie.safetensors",
    "codebooks.safetensors",
    "tokens.json",
)


@dataclass(frozen=True)
class Tokens:
    """A table of STUs, and how it came about."""

    settings: TokenizeSettings
    spectrum: Spectrum
    """of the users of the training part, the first so many of the log"""
    quantizer: Quantizer
    table: Table
    lineage: str
    """digest of the ids of the table's users: a later version of the log begins with the same"""
    data: str
    """sha256 of the events that the vectors come from"""
    until: int
    """UTC second of the first event that was not looked at"""
    texts: TextVectors
    """what users wrote"""

    def vectors(
        self, log: EventLog, events: np.ndarray, users: np.ndarray, horizon: np.ndarray | None = None
    ) -> Tensor:
        """float32[n, D]: vectors of users, int64[n], from their ties by some events, int64, to users of the graph.

        horizon: int64[n], UTC seconds before which their texts count; None: that of the last of the events.
        """
        s, known = self.settings, len(self.spectrum.basis)
        until = int(log.timestamp[events].max(initial=0))
        ties = Graph(s.half_life, s.action_weights).adjacency(log, events, until)[users][:, :known]
        spectral = torch.from_numpy(self.spectrum.place(ties))
        horizon = np.full(len(users), until + 1) if horizon is None else horizon
        return user_vectors(spectral, s, log, users, self.texts, horizon)

    def with_users(self, vectors: Tensor, log: EventLog) -> Self:
        """With as many more users, by their vectors, float32[n, D]. Nobody else's STU changes."""
        s, q, taken = self.settings, self.quantizer, self.table.stus
        if s.collisions == "digit":
            stus = with_digit(q.codes(vectors), taken, s.digits)
        else:
            stus = reassigned(q.latents(vectors), q.codebooks, taken, s.balance)
        table = self.table.extended(stus)
        return replace(self, table=table, lineage=log.lineage(len(table)))

    def joined(self, log: EventLog) -> Self:
        """With everyone of a later log, each by the first event and earlier texts, or the first text alone.

        By then somebody can be on a list.
        """
        joined = np.arange(len(self.table), log.num_users)
        if not len(joined):
            return self
        first = first_seen(log.actor, log.target, np.arange(log.num_events), log.num_users)[joined]
        events = np.unique(first[first < log.num_events])  # somebody may have none: forgotten, or of an earlier log
        acted = first < log.num_events
        begun = first_moments(log, self.texts)[joined]
        horizon = np.where(acted, log.timestamp[np.where(acted, first, 0)], np.minimum(begun, LATEST) + 1)
        return self.with_users(self.vectors(log, events, joined, horizon), log)

    def extended(self, log: EventLog, visible: int | None = None) -> Self:
        """With the users who joined since, by the first `visible` events of a later log (all by default)."""
        events = np.arange(log.num_events if visible is None else visible)
        present = int(max(log.actor[events].max(initial=-1), log.target[events].max(initial=-1))) + 1
        joined = np.arange(len(self.table), max(present, len(self.table)))
        return self.with_users(self.vectors(log, events, joined), log) if len(joined) else self


def user_vectors(
    spectral: Tensor,
    settings: TokenizeSettings,
    log: EventLog,
    users: np.ndarray,
    texts: TextVectors,
    horizon: np.ndarray,
) -> Tensor:
    """float32[n, D]: vectors of users, int64[n], from all sources that the settings name.

    spectral: float32[n, dimensions]; horizon: int64[n], UTC seconds before which texts count.
    """
    source = ("both" if texts.width else "graph") if settings.source == "auto" else settings.source
    if source != "graph":
        if not texts.width:
            raise DataError(f"tokenize.source is {source}, but the log has no texts. Set it to auto, or give texts.")
        written = texts.latest(torch.from_numpy(users), torch.from_numpy(horizon))
        share = settings.text_weight
        spectral = written if source == "text" else torch.cat([(1 - share) ** 0.5 * spectral, share**0.5 * written], 1)
    return beside(spectral, settings, log.user_ids[users])


def beside(spectral: Tensor, settings: TokenizeSettings, user_ids: pl.Series) -> Tensor:
    """float32[n, D + E]: vectors and those of the table that the settings name, each of its share of length.

    Users without a row there have zeros; without a table the vectors are what they were.
    """
    if settings.vectors is None:
        return spectral
    where = f"tokenize.vectors, {settings.vectors}"
    try:
        rows = pl.read_parquet(settings.vectors)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{where}, cannot be read: {error}") from None
    if not {"user_id", "vector"} <= set(rows.columns):
        raise DataError(f"{where}, has the columns {', '.join(rows.columns)}; needed: user_id, vector.")
    ids = pl.DataFrame({"user_id": user_ids.cast(pl.String)})
    found = ids.join(rows.with_columns(pl.col("user_id").cast(pl.String)).unique("user_id"), on="user_id", how="left")
    given = [row for row in found["vector"].to_list() if row is not None]
    widths = {len(row) for row in given}
    if len(widths) != 1:
        what = f"vectors of {len(widths)} widths" if widths else "no vector of these users"
        raise DataError(f"{where}, holds {what}; all vectors must be equally wide.")
    width = widths.pop()
    more = torch.tensor([row or [0.0] * width for row in found["vector"].to_list()], dtype=torch.float32)
    more = nn.functional.normalize(more, dim=1)
    share = settings.vectors_weight
    return torch.cat([(1 - share) ** 0.5 * spectral, share**0.5 * more], 1)


def save(folder: Path, tokens: Tokens, user_ids: pl.Series) -> None:
    """Writes the folder, complete or not at all."""
    from safetensors.torch import save_file

    quantizer, spectrum, trie = tokens.quantizer, tokens.spectrum, Trie.of(tokens.table.stus)
    tensors = {f"codebook.{level}": codebook for level, codebook in enumerate(quantizer.codebooks)}
    tensors |= {f"encoder.{name}": value for name, value in quantizer.encoder.state_dict().items()}
    tensors |= {f"decoder.{name}": value for name, value in quantizer.decoder.state_dict().items()}
    tensors |= {"basis": torch.from_numpy(spectrum.basis), "scale": torch.from_numpy(spectrum.scale)}
    nodes = {f"tokens.{level}": value for level, value in enumerate(trie.tokens)}
    nodes |= {f"starts.{level}": value for level, value in enumerate(trie.starts)}
    about = {name: getattr(tokens, name) for name in ("lineage", "data", "until")}
    about |= {"settings": tokens.settings.model_dump(mode="json"), "users": len(tokens.table)}
    about |= {"vocabulary": list(tokens.table.vocabulary), "table": tokens.table.digest()}
    about |= {"text_width": tokens.texts.width}
    with files.atomic(folder) as new:
        new.mkdir()
        tokens.table.write(new / TABLE_FILE, user_ids)
        save_file({name: value.contiguous() for name, value in tensors.items()}, new / CODEBOOKS_FILE)
        save_file(nodes | {"users": trie.users, "leaves": trie.leaves}, new / TRIE_FILE)
        files.write_json(new / ABOUT_FILE, about)


def load(folder: Path, log: EventLog, texts: TextVectors) -> Tokens:
    """Saved tokens for a log, its users, and what they wrote: those they were made from, or a later version of them."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    again = "Run `dvc repro tokenize`"
    if not (folder / ABOUT_FILE).is_file():
        raise DataError(f"there are no tokens in {folder}. {again} first.")
    try:
        about: dict[str, Any] = files.read_json(folder / ABOUT_FILE)
        settings = TokenizeSettings.model_validate(about["settings"])
        tensors = load_file(folder / CODEBOOKS_FILE)
        table = Table.read(folder / TABLE_FILE, tuple(about["vocabulary"]))
        spectrum = Spectrum(tensors["basis"].numpy(), tensors["scale"].numpy())
        quantizer = _quantizer(settings, tensors)
        users = about["users"]
        tokens = Tokens(settings, spectrum, quantizer, table, about["lineage"], about["data"], about["until"], texts)
        width = about["text_width"]
        digest = table.digest(users)
    except (KeyError, TypeError, ValueError, OSError, RuntimeError, SafetensorError, ValidationError) as error:
        raise DataError(f"the tokens in {folder} cannot be read ({error}). {again}.") from None
    if digest != about["table"]:
        raise DataError(f"the table in {folder} is not the one that was written there. {again}.")
    if width != texts.width and settings.source != "graph":
        raise DataError(
            f"the tokens in {folder} were made with vectors of texts of width {width}, and they have {texts.width} "
            f"now. {again}."
        )
    found = log.lineage(users) if log.num_users >= users else "shorter"
    if found != tokens.lineage:
        raise DataError(
            f"the tokens in {folder} belong to another log: lineage {tokens.lineage[:12]} of {users:,} users, this log "
            f"has {log.num_users:,} users and lineage {log.lineage()[:12]}. {again}."
        )
    return tokens


def _quantizer(settings: TokenizeSettings, tensors: dict[str, Tensor]) -> Quantizer:
    from befriend.tokens.rqvae import Coder

    levels = sorted(int(name.split(".")[1]) for name in tensors if name.startswith("codebook."))
    codebooks = tuple(tensors[f"codebook.{level}"] for level in levels)
    if settings.quantizer == "residual_kmeans":
        return Quantizer(codebooks, nn.Identity(), nn.Identity())
    coders = []
    for part in ("encoder", "decoder"):
        weights = {name.removeprefix(f"{part}."): x for name, x in tensors.items() if name.startswith(f"{part}.")}
        out, width = weights["linear.weight"].shape
        coder = Coder(width, settings.encoder_dim, out)
        coder.load_state_dict(weights)
        coders.append(coder.eval())
    return Quantizer(codebooks, *coders)
