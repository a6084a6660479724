"""The tokenizer: the table of STUs, everything needed to give STUs to users who join later, and its files on disk."""

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
from befriend.tokens.collisions import append_digit, assign_in_order, assign_nearest_first
from befriend.tokens.quantizer import Quantizer, encode
from befriend.tokens.stu_table import StuTable
from befriend.tokens.token_settings import TokenizeSettings
from befriend.tokens.trie import Trie
from befriend.tokens.user_vectors import InteractionGraph, SpectralEmbedding

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # type: ignore[import-untyped]

FAR_FUTURE = 2**40  # later than any UTC second: join time of users of whom nothing is known
TABLE_FILE, TRIE_FILE, CODEBOOKS_FILE, ABOUT_FILE = (
    "table.parquet",
    "trie.safetensors",
    "codebooks.safetensors",
    "tokens.json",
)


@dataclass(frozen=True)
class StuTokenizer:
    """A table of STUs, and how it was made."""

    settings: TokenizeSettings
    spectrum: SpectralEmbedding
    """of the users of the training part, the first users of the log"""
    quantizer: Quantizer
    table: StuTable
    lineage: str
    """digest of the external ids of the table's users; a later version of the log begins with the same users"""
    data: str
    """sha256 of the events that the vectors come from"""
    until: int
    """cutoff: UTC second of the first event not used"""
    texts: TextVectors
    """text vectors of the users"""

    def vectors(self, log: EventLog, events: np.ndarray, users: np.ndarray) -> Tensor:
        """float32[n, D]: vectors of users, int64[n], from their ties to users of the graph and their texts.

        events: int64[m], the events that make the ties; texts count up to the last of these events.
        """
        until = int(log.timestamp[events].max(initial=0))
        ties = InteractionGraph(self.settings.half_life, self.settings.action_weights).adjacency(log, events, until)[
            users
        ]
        return self._vectors(ties, log, users, np.full(len(users), until + 1))

    def first_vectors(self, log: EventLog, users: np.ndarray) -> Tensor:
        """float32[n, D]: vectors of users who joined later, int64[n], each from its first event or text alone.

        Nothing later is used, and events do not decay: each has age 0.
        """
        first = first_seen(log.actor, log.target, np.arange(log.num_events), log.num_users)[users]
        first, joined = first.clip(max=log.num_events), self._joined(log)[users]
        by_event = np.append(log.timestamp, -1)[first] == joined
        ties = InteractionGraph(np.inf, self.settings.action_weights).adjacency(log, np.unique(first[by_event]), 0)[
            users
        ]
        return self._vectors(ties, log, users, joined + 1)

    def _vectors(self, ties: csr_array, log: EventLog, users: np.ndarray, cutoff: np.ndarray) -> Tensor:
        """float32[n, D]: vectors of users, int64[n]. ties: float64[n, N]; cutoff: int64[n], texts before it count."""
        spectral = torch.from_numpy(self.spectrum.embed(ties[:, : len(self.spectrum.basis)]))
        return user_vectors(spectral, self.settings, log, users, self.texts, cutoff)

    def _joined(self, log: EventLog) -> np.ndarray:
        """int64[N]: the UTC second of the first event or text (source: graph: event) of each user."""
        graph_only = self.settings.source == "graph"
        return (log.first_seen if graph_only else first_known(log, self.texts)).clip(max=FAR_FUTURE)

    def with_training_users(self, vectors: Tensor, log: EventLog) -> Self:
        """With the users of the training part in its table, empty so far. vectors: float32[n, D], of these users."""
        s, q = self.settings, self.quantizer
        if s.collisions == "digit":
            return self._append(append_digit(q.codes(vectors), self.table.stus, s.digits), log)
        return self._append(assign_nearest_first(q.latents(vectors), q.codebooks, s.balance), log)

    def with_newcomers(self, log: EventLog) -> Self:
        """With all users of a later log, added in the order of their first event or text, and by that alone.

        From then on a user may be recommended. An STU depends on nothing later, so it never changes.
        """
        users = np.arange(len(self.table), log.num_users)
        return self._with_joiners(log, users, self.first_vectors(log, users), self._joined(log)[users])

    def with_users_at(self, log: EventLog, num_visible: int) -> Self:
        """With the users who joined since, as of the first `num_visible` events of a log, in the order of joining."""
        events = np.arange(num_visible)
        present = int(max(log.actor[events].max(initial=-1), log.target[events].max(initial=-1))) + 1
        users = np.arange(len(self.table), max(present, len(self.table)))
        last = int(log.timestamp[events].max(initial=0))
        joined = self._joined(log)[users].clip(max=last + 1)  # users after the last event have no order of joining yet
        return self._with_joiners(log, users, self.vectors(log, events, users), joined)

    def _with_joiners(self, log: EventLog, users: np.ndarray, vectors: Tensor, joined: np.ndarray) -> Self:
        """With users, the next n internal ids, in the order of `joined`, int64[n], UTC seconds, then of external ids.

        The order must not depend on internal ids: they are higher for users who only have texts than for all users with
        an event, and change when such a user gets a first event.
        """
        if not len(users):
            return self
        s, q, taken = self.settings, self.quantizer.double(), self.table.stus
        joining = pl.DataFrame({"joined": joined, "id": log.user_ids[users]})
        order = joining.select(pl.arg_sort_by("joined", "id")).to_series().cast(pl.Int64).to_torch()
        latents = q.latents(vectors.double()[order])
        if s.collisions == "digit":
            stus = append_digit(encode(latents, q.codebooks), taken, s.digits)
        else:
            stus = assign_in_order(latents, q.codebooks, taken)
        return self._append(torch.empty_like(stus).index_copy_(0, order, stus), log)

    def _append(self, stus: Tensor, log: EventLog) -> Self:
        """With n more users at the end of the table, int64[n, L]."""
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

    spectral: float32[n, dimensions]; cutoff: int64[n], UTC seconds before which texts count.
    """
    source = ("both" if texts.width else "graph") if settings.source == "auto" else settings.source
    if source != "graph":
        if not texts.width:
            raise DataError(f"tokenize.source is {source}, but the log has no texts. Set it to auto, or provide texts.")
        text = texts.latest_vectors(torch.from_numpy(users), torch.from_numpy(cutoff))
        share = settings.text_weight
        spectral = text if source == "text" else torch.cat([(1 - share) ** 0.5 * spectral, share**0.5 * text], 1)
    return with_extra_vectors(spectral, settings, log.user_ids, users)


def with_extra_vectors(vectors: Tensor, settings: TokenizeSettings, user_ids: pl.Series, users: np.ndarray) -> Tensor:
    """float32[n, D + E]: vectors, float32[n, D], and those of the table in the settings, weighted by their shares.

    user_ids: external ids of all users of the log; users: int64[n]. Without a table, the vectors are unchanged. Users
    without a row in the table have zeros; DataError if no user of the log has a row.
    """
    if settings.vectors is None:
        return vectors
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
        content = f"vectors of {len(widths)} widths" if widths else "no vector of these users"
        raise DataError(f"{where}, contains {content}; all vectors must have the same width.")
    width = widths.pop()
    user_rows = ids[users].join(rows, on="user_id", how="left", maintain_order="left")["vector"].to_list()
    extra = torch.tensor([row or [0.0] * width for row in user_rows], dtype=torch.float32).view(len(users), width)
    extra = nn.functional.normalize(extra, dim=1)
    share = settings.vectors_weight
    return torch.cat([(1 - share) ** 0.5 * vectors, share**0.5 * extra], 1)


def save_tokenizer(folder: Path, tokens: StuTokenizer, user_ids: pl.Series) -> None:
    """Writes the folder, complete or not at all. user_ids: external ids of the users of the log."""
    from safetensors.torch import save_file

    quantizer, spectrum, trie = tokens.quantizer, tokens.spectrum, Trie.of(tokens.table.stus)
    tensors = {f"codebook.{level}": codebook for level, codebook in enumerate(quantizer.codebooks)}
    tensors |= {f"encoder.{name}": value for name, value in quantizer.encoder.state_dict().items()}
    tensors |= {f"decoder.{name}": value for name, value in quantizer.decoder.state_dict().items()}
    tensors |= {"basis": torch.from_numpy(spectrum.basis), "scale": torch.from_numpy(spectrum.scale)}
    nodes = {f"tokens.{level}": value for level, value in enumerate(trie.tokens)}
    nodes |= {f"starts.{level}": value for level, value in enumerate(trie.child_ptr)}
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


def load_tokenizer(folder: Path, log: EventLog, texts: TextVectors) -> StuTokenizer:
    """Saved tokens, for the log and texts they were made from or later versions of them.

    Raises a DataError if they are missing, damaged, or of another log or other texts.
    """
    remedy = "Run `dvc repro tokenize`"
    with artifacts.reading(folder, ABOUT_FILE, "tokens", remedy) as about:
        settings = TokenizeSettings.model_validate(about["settings"])
        tensors = artifacts.load_tensors(folder / CODEBOOKS_FILE)
        table = StuTable.read(folder / TABLE_FILE, tuple(about["vocabulary"]))
        spectrum = SpectralEmbedding(tensors["basis"].numpy(), tensors["scale"].numpy())
        quantizer, users, width = _quantizer(settings, tensors), about["users"], about["text_width"]
        tokens = StuTokenizer(
            settings, spectrum, quantizer, table, about["lineage"], about["data"], about["until"], texts
        )
        is_as_written = table.digest(users) == about["table"]
    if not is_as_written:
        raise DataError(f"the table in {folder} is not the one that was written there. {remedy}.")
    if width != texts.width and settings.source != "graph":
        raise DataError(
            f"the tokens in {folder} were made with text vectors of width {width}, and they have {texts.width} "
            f"now. {remedy}."
        )
    log.check_lineage(users, tokens.lineage, f"the tokenizer in {folder}", remedy)
    return tokens


def _quantizer(settings: TokenizeSettings, tensors: dict[str, Tensor]) -> Quantizer:
    """The quantizer from the tensors that `save_tokenizer` wrote."""
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
