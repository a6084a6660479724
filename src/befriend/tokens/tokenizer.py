"""The tokenizer: the table of STUs, everything needed to assign STUs to users who join later, and its files.

An STU (social tokenized user id) is the semantic ID (Rajput et al. 2023, TIGER) of a user: the codes of the user's
vector by a residual quantizer, made unique.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from befriend import artifacts, files
from befriend.data.event_log import EventLog, first_seen
from befriend.errors import DataError
from befriend.features.text_vectors import TextVectors, first_known
from befriend.tokens.collisions import append_digit, assign_by_distance, assign_in_order
from befriend.tokens.quantizer import Quantizer, encode
from befriend.tokens.stu_table import StuTable
from befriend.tokens.token_settings import TokenizeSettings
from befriend.tokens.trie import Trie
from befriend.tokens.user_vectors import InteractionGraph, SpectralEmbedding

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

FAR_FUTURE = 2**40  # a UTC second after all others: the join time of users without an event or text
TABLE_FILE, TRIE_FILE, CODEBOOKS_FILE, ABOUT_FILE = (
    "table.parquet",
    "trie.safetensors",
    "codebooks.safetensors",
    "tokens.json",
)


@dataclass(frozen=True)
class StuTokenizer:
    """A table of STUs, and the quantizer and embedding that it comes from. Immutable: users are added to a copy.

    Shapes: n users; m events; N users of a log; D, width of a user vector; L levels of an STU.
    """

    settings: TokenizeSettings
    spectrum: SpectralEmbedding
    """embedding of the users of the training part, who are the first users of the log"""
    quantizer: Quantizer
    table: StuTable
    lineage: str
    """digest of the external ids of the table's users; a later version of the log begins with the same users"""
    events_digest: str
    """SHA-256 of the file of events that the vectors come from"""
    trained_until: int
    """cutoff of training, a UTC second: embedding and quantizer are fitted to earlier events and texts only"""
    texts: TextVectors
    """text vectors of the users at any cutoff"""

    def vectors(self, log: EventLog, events: np.ndarray, users: np.ndarray) -> Tensor:
        """float32[n, D]: vectors of users, int64[n], from their edges to users of the embedding, and their texts.

        events: int64[m], indices of the events that make the edges. Texts count up to and including the second of the
        last of these events.
        """
        last_timestamp = int(log.timestamp[events].max(initial=0))
        graph = InteractionGraph(self.settings.half_life, self.settings.action_weights)
        edge_weights = graph.adjacency(log, events, last_timestamp)[users]
        return self._vectors(edge_weights, log, users, np.full(len(users), last_timestamp + 1))

    def first_vectors(self, log: EventLog, users: np.ndarray) -> Tensor:
        """float32[n, D]: vectors of users who join later, int64[n], each from the user's first event or text only.

        If both are in the same second, both count. Events do not decay: each has age 0.
        """
        first = first_seen(log.actor, log.target, np.arange(log.num_events), log.num_users)[users]
        first, join_times = first.clip(max=log.num_events), self._join_times(log)[users]
        by_event = np.append(log.timestamp, -1)[first] == join_times
        graph = InteractionGraph(np.inf, self.settings.action_weights)
        edge_weights = graph.adjacency(log, np.unique(first[by_event]), 0)[users]
        return self._vectors(edge_weights, log, users, join_times + 1)

    def _vectors(self, edge_weights: csr_array, log: EventLog, users: np.ndarray, cutoff: np.ndarray) -> Tensor:
        """float32[n, D]: vectors of users, int64[n].

        edge_weights: float64[n, N], of their edges; cutoff: int64[n], UTC seconds before which texts count.
        """
        spectral = torch.from_numpy(self.spectrum.embed(edge_weights[:, : len(self.spectrum.basis)]))
        return user_vectors(spectral, self.settings, log, users, self.texts, cutoff)

    def _join_times(self, log: EventLog) -> np.ndarray:
        """int64[N]: the UTC second of each user's first event or text; with `source: graph`, of the first event."""
        graph_only = self.settings.source == "graph"
        return (log.first_seen if graph_only else first_known(log, self.texts)).clip(max=FAR_FUTURE)

    def add_training_users(self, vectors: Tensor, log: EventLog) -> Self:
        """A copy whose table, empty before, holds the n training users. vectors: float32[n, D], of these users."""
        settings, quantizer = self.settings, self.quantizer
        if settings.collisions == "digit":
            return self._append_stus(append_digit(quantizer.codes(vectors), self.table.stus, settings.digits), log)
        stus = assign_by_distance(quantizer.latents(vectors), quantizer.codebooks, settings.balance)
        return self._append_stus(stus, log)

    def add_newcomers(self, log: EventLog) -> Self:
        """A copy whose table also holds all other users of the log, which may be a later version.

        STUs are assigned in the order of the users' first event or text. Only this event or text, and users who joined
        earlier, determine the STU, so it never changes. From then on, the user may be recommended.
        """
        users = np.arange(len(self.table), log.num_users)
        return self._add_in_order_of_joining(log, users, self.first_vectors(log, users), self._join_times(log)[users])

    def add_users_until(self, log: EventLog, num_visible: int) -> Self:
        """A copy whose table also holds the users of a log's first `num_visible` events.

        STUs are assigned in the order of joining. Unlike in `add_newcomers`, all these events of a user, and the texts
        up to the last of them, determine the STU. For a new training that keeps the STUs of an earlier one.
        """
        events = np.arange(num_visible)
        num_users = int(max(log.actor[events].max(initial=-1), log.target[events].max(initial=-1))) + 1
        users = np.arange(len(self.table), max(num_users, len(self.table)))
        last_timestamp = int(log.timestamp[events].max(initial=0))
        join_times = self._join_times(log)[users].clip(max=last_timestamp + 1)  # later users have no order yet
        return self._add_in_order_of_joining(log, users, self.vectors(log, events, users), join_times)

    def _add_in_order_of_joining(
        self, log: EventLog, users: np.ndarray, vectors: Tensor, join_times: np.ndarray
    ) -> Self:
        """A copy with n more users, the next internal ids. STUs are assigned in the order of join time, external id.

        users, join_times: int64[n]; vectors: float32[n, D]. The order must not depend on internal ids: those of users
        who only have texts are higher than those of all users with an event, and change with the user's first event.
        """
        if not len(users):
            return self
        settings, quantizer, existing_stus = self.settings, self.quantizer.double(), self.table.stus
        keys = pl.DataFrame({"joined": join_times, "id": log.user_ids[users]})
        order = keys.select(pl.arg_sort_by("joined", "id")).to_series().cast(pl.Int64).to_torch()
        latents = quantizer.latents(vectors.double()[order])
        if settings.collisions == "digit":
            stus = append_digit(encode(latents, quantizer.codebooks), existing_stus, settings.digits)
        else:
            stus = assign_in_order(latents, quantizer.codebooks, existing_stus)
        return self._append_stus(torch.empty_like(stus).index_copy_(0, order, stus), log)

    def _append_stus(self, stus: Tensor, log: EventLog) -> Self:
        """A copy with n more users at the end of the table. stus: int64[n, L]."""
        table = self.table.append(stus)
        return replace(self, table=table, lineage=log.lineage(len(table)))


def user_vectors(
    spectral: Tensor,
    settings: TokenizeSettings,
    log: EventLog,
    users: np.ndarray,
    texts: TextVectors,
    cutoff: np.ndarray,
) -> Tensor:
    """float32[n, D]: vectors of users, int64[n], from all sources of the settings, concatenated.

    spectral: float32[n, dimensions], from the graph; cutoff: int64[n], UTC seconds before which texts count. Raises
    DataError if the settings require texts and there are none.
    """
    source = ("both" if texts.width else "graph") if settings.source == "auto" else settings.source
    vectors = spectral
    if source != "graph":
        if not texts.width:
            raise DataError(f"tokenize.source is {source}, but the log has no texts. Set it to auto, or provide texts.")
        text = texts.latest_vectors(torch.from_numpy(users), torch.from_numpy(cutoff))
        text_share = settings.text_weight
        weighted = [(1 - text_share) ** 0.5 * spectral, text_share**0.5 * text]
        vectors = text if source == "text" else torch.cat(weighted, 1)
    return with_extra_vectors(vectors, settings, log.user_ids, users)


def with_extra_vectors(vectors: Tensor, settings: TokenizeSettings, user_ids: pl.Series, users: np.ndarray) -> Tensor:
    """float32[n, D + E]: vectors, float32[n, D], and those of the table in the settings, weighted by their shares.

    user_ids: external ids of all users of the log; users: int64[n]. Without a table, the vectors are unchanged. Users
    without a row in the table have zeros. Raises DataError if the table cannot be read, lacks a column, has vectors of
    several widths, or has no user of the log.
    """
    if settings.vectors is None:
        return vectors
    table_name = f"tokenize.vectors, {settings.vectors}"
    try:
        rows = pl.read_parquet(settings.vectors)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{table_name}, cannot be read: {error}") from None
    if not {"user_id", "vector"} <= set(rows.columns):
        raise DataError(f"{table_name}, has the columns {', '.join(rows.columns)}; needed: user_id, vector.")
    rows = rows.select(pl.col("user_id").cast(pl.String), "vector").drop_nulls()
    rows = rows.unique("user_id", keep="first", maintain_order=True)
    ids = pl.DataFrame({"user_id": user_ids.cast(pl.String)})
    widths = {len(row) for row in rows.join(ids, on="user_id", how="semi")["vector"].to_list()}
    if len(widths) != 1:
        content = f"vectors of {len(widths)} widths" if widths else "no vector of these users"
        raise DataError(f"{table_name}, contains {content}; all vectors must have the same width.")
    width = widths.pop()
    user_rows = ids[users].join(rows, on="user_id", how="left", maintain_order="left")["vector"].to_list()
    extra = torch.tensor([row or [0.0] * width for row in user_rows], dtype=torch.float32).view(len(users), width)
    extra = nn.functional.normalize(extra, dim=1)
    extra_share = settings.vectors_weight
    return torch.cat([(1 - extra_share) ** 0.5 * vectors, extra_share**0.5 * extra], 1)


def save_tokenizer(folder: Path, tokenizer: StuTokenizer, user_ids: pl.Series) -> None:
    """Writes the folder, complete or not at all. user_ids: external ids of the users of the log."""
    from safetensors.torch import save_file

    quantizer, spectrum, trie = tokenizer.quantizer, tokenizer.spectrum, Trie.of(tokenizer.table.stus)
    tensors = {f"codebook.{level}": codebook for level, codebook in enumerate(quantizer.codebooks)}
    tensors |= {f"encoder.{name}": value for name, value in quantizer.encoder.state_dict().items()}
    tensors |= {f"decoder.{name}": value for name, value in quantizer.decoder.state_dict().items()}
    tensors |= {"basis": torch.from_numpy(spectrum.basis), "scale": torch.from_numpy(spectrum.scale)}
    nodes = {f"tokens.{level}": value for level, value in enumerate(trie.tokens)}
    nodes |= {f"starts.{level}": value for level, value in enumerate(trie.child_ptr)}
    about = {"lineage": tokenizer.lineage, "data": tokenizer.events_digest, "until": tokenizer.trained_until}
    about |= {"settings": tokenizer.settings.model_dump(mode="json"), "users": len(tokenizer.table)}
    about |= {"vocabulary": list(tokenizer.table.vocabulary), "table": tokenizer.table.digest()}
    about |= {"text_width": tokenizer.texts.width}
    with files.atomic(folder) as new:
        new.mkdir()
        tokenizer.table.write(new / TABLE_FILE, user_ids)
        save_file({name: value.contiguous() for name, value in tensors.items()}, new / CODEBOOKS_FILE)
        save_file(nodes | {"users": trie.users, "leaves": trie.leaves}, new / TRIE_FILE)
        files.write_json(new / ABOUT_FILE, about)


def load_tokenizer(folder: Path, log: EventLog, texts: TextVectors) -> StuTokenizer:
    """A saved tokenizer, for the log and texts that it was made from or later versions of them.

    Raises DataError if the files are missing, damaged, or of another log or other texts.
    """
    remedy = "Run `dvc repro tokenize`"
    with artifacts.open_artifact(folder, ABOUT_FILE, "tokens", remedy) as about:
        settings = TokenizeSettings.model_validate(about["settings"])
        tensors = artifacts.load_tensors(folder / CODEBOOKS_FILE)
        table = StuTable.read(folder / TABLE_FILE, tuple(about["vocabulary"]))
        spectrum = SpectralEmbedding(tensors["basis"].numpy(), tensors["scale"].numpy())
        quantizer, users, width = _quantizer(settings, tensors), about["users"], about["text_width"]
        tokenizer = StuTokenizer(
            settings, spectrum, quantizer, table, about["lineage"], about["data"], about["until"], texts
        )
        is_as_written = table.digest(users) == about["table"]
    if not is_as_written:
        raise DataError(f"the table in {folder} has changed since the tokenizer was saved. {remedy}.")
    if width != texts.width and settings.source != "graph":
        raise DataError(
            f"the tokens in {folder} were made with text vectors of width {width}, which now have width "
            f"{texts.width}. {remedy}."
        )
    log.check_lineage(users, tokenizer.lineage, f"the tokenizer in {folder}", remedy)
    return tokenizer


def _quantizer(settings: TokenizeSettings, tensors: dict[str, Tensor]) -> Quantizer:
    """The quantizer, from the tensors of a saved tokenizer."""
    from befriend.tokens.rqvae import LinearPlusMLP

    levels = sorted(int(name.split(".")[1]) for name in tensors if name.startswith("codebook."))
    codebooks = tuple(tensors[f"codebook.{level}"] for level in levels)
    if settings.quantizer == "residual_kmeans":
        return Quantizer(codebooks, nn.Identity(), nn.Identity())
    coders = []
    for role in ("encoder", "decoder"):
        weights = {name.removeprefix(f"{role}."): x for name, x in tensors.items() if name.startswith(f"{role}.")}
        out, width = weights["linear.weight"].shape
        coder = LinearPlusMLP(width, settings.encoder_dim, out)
        coder.load_state_dict(weights)
        coders.append(coder.eval())
    return Quantizer(codebooks, *coders)
