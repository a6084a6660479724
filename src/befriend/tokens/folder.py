"""The tokens on disk, and everything it takes to give STUs to users who join later."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import polars as pl
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from befriend import files
from befriend.data.log import EventLog, first_seen
from befriend.data.texts import TextVectors, first_moments
from befriend.errors import DataError
from befriend.tokens.collisions import one_by_one, reassigned, with_digit
from befriend.tokens.quantizer import Quantizer, encode
from befriend.tokens.settings import TokenizeSettings
from befriend.tokens.table import Table
from befriend.tokens.trie import Trie
from befriend.tokens.user_vectors import Graph, Spectrum

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

LATEST = 2**40  # later than any second: when somebody is there of whom nothing is known
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

    def vectors(self, log: EventLog, events: np.ndarray, users: np.ndarray) -> Tensor:
        """float32[n, D]: vectors of users, int64[n], from their ties by some events, int64, to users of the graph.

        Texts count up to the last of the events.
        """
        until = int(log.timestamp[events].max(initial=0))
        ties = Graph(self.settings.half_life, self.settings.action_weights).adjacency(log, events, until)[users]
        return self._vectors(ties, log, users, np.full(len(users), until + 1))

    def first_vectors(self, log: EventLog, users: np.ndarray) -> Tensor:
        """float32[n, D]: vectors of users who joined, int64[n], from the event or text by which each is first there.

        Nothing later is looked at, and no event fades: each is seen in its own second.
        """
        first = first_seen(log.actor, log.target, np.arange(log.num_events), log.num_users)[users]
        first, begun = first.clip(max=log.num_events), self._begun(log)[users]
        by_event = np.append(log.timestamp, -1)[first] == begun
        ties = Graph(np.inf, self.settings.action_weights).adjacency(log, np.unique(first[by_event]), 0)[users]
        return self._vectors(ties, log, users, begun + 1)

    def _vectors(self, ties: csr_array, log: EventLog, users: np.ndarray, horizon: np.ndarray) -> Tensor:
        """float32[n, D]. ties: float64[n, N]; horizon: int64[n], UTC seconds before which texts count."""
        spectral = torch.from_numpy(self.spectrum.place(ties[:, : len(self.spectrum.basis)]))
        return user_vectors(spectral, self.settings, log, users, self.texts, horizon)

    def _begun(self, log: EventLog) -> np.ndarray:
        """int64[N]: the UTC second by which something is known of each user that vectors are made of."""
        graph = self.settings.source == "graph"
        return (log.first_seen if graph else first_moments(log, self.texts)).clip(max=LATEST)

    def with_users(self, vectors: Tensor, log: EventLog) -> Self:
        """Of nobody yet, with the users of the training part, by their vectors, float32[n, D]."""
        s, q = self.settings, self.quantizer
        if s.collisions == "digit":
            return self._with(with_digit(q.codes(vectors), self.table.stus, s.digits), log)
        return self._with(reassigned(q.latents(vectors), q.codebooks, s.balance), log)

    def joined(self, log: EventLog) -> Self:
        """With everyone of a later log, one after the other as they are first there, by event or text.

        By then somebody can be on a list. An STU depends on nothing that comes later, so it never changes.
        """
        users = np.arange(len(self.table), log.num_users)
        return self._joined(log, users, self.first_vectors(log, users), self._begun(log)[users])

    def extended(self, log: EventLog, visible: int) -> Self:
        """With the users who joined since, one after the other, by the first `visible` events of a later log."""
        events = np.arange(visible)
        present = int(max(log.actor[events].max(initial=-1), log.target[events].max(initial=-1))) + 1
        users = np.arange(len(self.table), max(present, len(self.table)))
        last = int(log.timestamp[events].max(initial=0))
        moment = self._begun(log)[users].clip(max=last + 1)  # who comes after the last event is in no order yet
        return self._joined(log, users, self.vectors(log, events, users), moment)

    def _joined(self, log: EventLog, users: np.ndarray, vectors: Tensor, moment: np.ndarray) -> Self:
        """With users, the next n numbers, who join in the order of their moments, int64[n], then of their ids.

        Not of their numbers: who only writes stands behind all who have an event, and may have one tomorrow.
        """
        if not len(users):
            return self
        s, q, taken = self.settings, self.quantizer.double(), self.table.stus
        joining = pl.DataFrame({"moment": moment, "id": log.user_ids[users]})
        order = joining.select(pl.arg_sort_by("moment", "id")).to_series().cast(pl.Int64).to_torch()
        latents = q.latents(vectors.double()[order])
        if s.collisions == "digit":
            found = with_digit(encode(latents, q.codebooks), taken, s.digits)
        else:
            found = one_by_one(latents, q.codebooks, taken)
        return self._with(torch.empty_like(found).index_copy_(0, order, found), log)

    def _with(self, stus: Tensor, log: EventLog) -> Self:
        """With more users, int64[n, L]. Nobody else's STU changes."""
        table = self.table.extended(stus)
        return replace(self, table=table, lineage=log.lineage(len(table)))


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
    return beside(spectral, settings, log.user_ids, users)


def beside(spectral: Tensor, settings: TokenizeSettings, user_ids: pl.Series, users: np.ndarray) -> Tensor:
    """float32[n, D + E]: vectors and those of the table that the settings name, each of its share of length.

    user_ids: of the log; users: int64[n]. Users without a row there have zeros, though not all users of the log;
    without a table the vectors are what they were.
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
    rows = rows.select(pl.col("user_id").cast(pl.String), "vector").drop_nulls()
    rows = rows.unique("user_id", keep="first", maintain_order=True)
    ids = pl.DataFrame({"user_id": user_ids.cast(pl.String)})
    widths = {len(row) for row in rows.join(ids, on="user_id", how="semi")["vector"].to_list()}
    if len(widths) != 1:
        what = f"vectors of {len(widths)} widths" if widths else "no vector of these users"
        raise DataError(f"{where}, holds {what}; all vectors must be equally wide.")
    width = widths.pop()
    found = ids[users].join(rows, on="user_id", how="left", maintain_order="left")["vector"].to_list()
    more = torch.tensor([row or [0.0] * width for row in found], dtype=torch.float32).view(len(users), width)
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
