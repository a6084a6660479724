"""The users' attributes in memory: codes of labels and raw numbers, and how a model keeps its own reading of them.

A model is trained on the labels and the scale of the users of its training, keeps both (`vocabulary_of`, `scale`)
and reads every later table by them (`with_vocabulary`, `scaled`): a label it has never met is unknown to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from befriend.data.contracts import ATTRIBUTES, read_table
from befriend.errors import DataError

ATTRIBUTES_FILE = "attributes.parquet"
ROUNDING = 1e-6  # of the mean: a deviation below it is the rounding of a constant column of float32


@dataclass(frozen=True)
class Attributes:
    """C categorical and M numeric attributes of N users, row k for the user with number k; C and M may be 0."""

    categorical: np.ndarray
    """int32[N, C], 0 where missing or unknown, else the label's place in the vocabulary, from 1"""
    vocabulary: dict[str, tuple[str, ...]]
    """categorical column -> its labels; C entries, in the order of the columns"""
    numeric: np.ndarray
    """float32[N, M], raw, nan where missing"""
    numeric_names: tuple[str, ...]
    """M names"""

    @classmethod
    def read(cls, folder: Path) -> Attributes:
        """From the folder that stage `validate` wrote."""
        return cls.from_table(read_table(folder / ATTRIBUTES_FILE, ATTRIBUTES))

    @classmethod
    def from_table(cls, table: pl.DataFrame) -> Attributes:
        """From a table that keeps the contract of attributes.parquet."""
        columns = table.get_columns()[1:]
        labelled = [column for column in columns if isinstance(column.dtype, pl.Enum)]
        numbers = [column for column in columns if not isinstance(column.dtype, pl.Enum)]
        codes = [(column.to_physical().cast(pl.Int32) + 1).fill_null(0).to_numpy() for column in labelled]
        return cls(
            categorical=_stacked(codes, table.height, np.int32),
            vocabulary={column.name: tuple(column.dtype.categories) for column in labelled},  # type: ignore[attr-defined]
            numeric=_stacked([column.to_numpy() for column in numbers], table.height, np.float32),
            numeric_names=tuple(column.name for column in numbers),
        )

    @property
    def num_users(self) -> int:
        return len(self.categorical)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """C numbers of codes, each one more than the labels of a column: code 0 is none of them."""
        return tuple(len(labels) + 1 for labels in self.vocabulary.values())

    @property
    def names(self) -> tuple[str, ...]:
        """C + M names, categorical before numeric."""
        return (*self.vocabulary, *self.numeric_names)

    def vocabulary_of(self, trained: np.ndarray) -> dict[str, list[str]]:
        """The labels that the users of training have. trained: bool[N]."""
        found = {}
        for (name, labels), codes in zip(self.vocabulary.items(), self.categorical.T, strict=True):
            found[name] = [labels[code - 1] for code in np.unique(codes[trained]) if code]
        return found

    def with_vocabulary(self, vocabulary: Mapping[str, Sequence[str]]) -> Attributes:
        """The same users in the codes of another vocabulary, with its columns only; labels it lacks become 0."""
        _require(vocabulary, self.vocabulary, "categorical")
        columns = []
        for name, labels in vocabulary.items():
            place = {label: k + 1 for k, label in enumerate(labels)}
            code = np.array([0, *(place.get(label, 0) for label in self.vocabulary[name])], np.int32)
            columns.append(code[self.categorical[:, list(self.vocabulary).index(name)]])
        return replace(
            self,
            categorical=_stacked(columns, self.num_users, np.int32),
            vocabulary={name: tuple(labels) for name, labels in vocabulary.items()},
        )

    def scale(self, trained: np.ndarray) -> dict[str, tuple[float, float]]:
        """Numeric column -> mean and deviation over the users of training who have it. trained: bool[N].

        The mean is 0 where none has it, the deviation 1 where all have the same.
        """
        found = {}
        for name, column in zip(self.numeric_names, self.numeric.T, strict=True):
            values = column[trained].astype(np.float64)
            values = values[~np.isnan(values)]
            mean, deviation = (float(values.mean()), float(values.std())) if len(values) else (0.0, 0.0)
            found[name] = mean, deviation if deviation > ROUNDING * abs(mean) else 1.0
        return found

    def scaled(self, scale: Mapping[str, Sequence[float]]) -> np.ndarray:
        """float32[N, 2M]: M z-scores, 0 where missing, then M flags, 1 where missing; columns as in `scale`."""
        _require(scale, self.numeric_names, "numeric")
        values = self.numeric[:, [self.numeric_names.index(name) for name in scale]]
        mean, deviation = np.array([*scale.values()], np.float64).reshape(-1, 2).T
        missing = np.isnan(values)
        z = np.where(missing, 0, (values - mean) / deviation)
        return np.hstack([z, missing]).astype(np.float32)

    def standardised(self, trained: np.ndarray) -> np.ndarray:
        """float32[N, 2M]: `scaled` by the users of training only. trained: bool[N]."""
        return self.scaled(self.scale(trained))


def _stacked(columns: list[np.ndarray], rows: int, kind: type) -> np.ndarray:
    """[rows, len(columns)], also of no columns."""
    return np.stack(columns, axis=1).astype(kind) if columns else np.empty((rows, 0), kind)


def _require(wanted: Mapping[str, object], found: Mapping[str, object] | Sequence[str], kind: str) -> None:
    """DataError where a column that a model was trained with is not there."""
    missing = [name for name in wanted if name not in found]
    if missing:
        raise DataError(
            f"the model was trained with the {kind} attributes {', '.join(wanted)}, but {ATTRIBUTES_FILE} has no "
            f"{', '.join(missing)}; it has: {', '.join(found) or 'none'}. Name them under data.attributes in "
            "params.yaml, or train anew."
        )
