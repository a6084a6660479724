"""Attributes of users, such as country or age, in memory: codes of labels, and numbers.

A model takes its vocabulary (the labels of each column) and its scale (mean and standard deviation) from the users that
it is trained on (`training_vocabulary`, `fit_scale`). It stores both and applies them to every later table
(`with_vocabulary`, `standardise`). A label that no training user has counts as unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from befriend.errors import DataError

ATTRIBUTES_FILE = "attributes.parquet"
MIN_RELATIVE_DEVIATION = 1e-6  # of the mean; a smaller one is the rounding error of a constant float32 column


@dataclass(frozen=True)
class Attributes:
    """C categorical and M numeric attributes of N users; row k is the user with internal id k. C and M may be 0."""

    categorical: np.ndarray
    """int32[N, C], label codes: 1 + the label's index in the vocabulary, 0 where missing or unknown"""
    vocabulary: dict[str, tuple[str, ...]]
    """categorical column -> its labels; C columns, in the order of `categorical`"""
    numeric: np.ndarray
    """float32[N, M], raw, nan where missing"""
    numeric_names: tuple[str, ...]
    """M column names, in the order of `numeric`"""

    @classmethod
    def read(cls, folder: Path) -> Attributes:
        """Reads attributes.parquet from the folder that stage `validate` wrote."""
        from befriend.data.contracts import ATTRIBUTES, read_table  # here: a look at column names does without pandera

        return cls.from_table(read_table(folder / ATTRIBUTES_FILE, ATTRIBUTES))

    @classmethod
    def from_table(cls, table: pl.DataFrame) -> Attributes:
        """Converts a table that satisfies the contract of attributes.parquet."""
        columns = table.get_columns()[1:]
        categorical_columns = [column for column in columns if isinstance(column.dtype, pl.Enum)]
        numeric_columns = [column for column in columns if not isinstance(column.dtype, pl.Enum)]
        codes = [(column.to_physical().cast(pl.Int32) + 1).fill_null(0).to_numpy() for column in categorical_columns]
        return cls(
            categorical=_stack_columns(codes, table.height, np.int32),
            vocabulary={column.name: tuple(column.dtype.categories) for column in categorical_columns},  # type: ignore[attr-defined]
            numeric=_stack_columns([column.to_numpy() for column in numeric_columns], table.height, np.float32),
            numeric_names=tuple(column.name for column in numeric_columns),
        )

    @property
    def num_users(self) -> int:
        return len(self.categorical)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Number of codes of each of the C columns: its labels plus code 0 (missing or unknown)."""
        return tuple(len(labels) + 1 for labels in self.vocabulary.values())

    @property
    def names(self) -> tuple[str, ...]:
        """C + M column names, categorical before numeric."""
        return (*self.vocabulary, *self.numeric_names)

    def training_vocabulary(self, is_training_user: np.ndarray) -> dict[str, list[str]]:
        """Categorical column -> the labels of the training users. is_training_user: bool[N]."""
        vocabulary = {}
        for (name, labels), codes in zip(self.vocabulary.items(), self.categorical.T, strict=True):
            vocabulary[name] = [labels[code - 1] for code in np.unique(codes[is_training_user]) if code]
        return vocabulary

    def with_vocabulary(self, vocabulary: Mapping[str, Sequence[str]]) -> Attributes:
        """The same users with the columns and codes of another vocabulary; labels that it lacks get the code 0."""
        _require_columns(vocabulary, self.vocabulary, "categorical")
        columns = []
        for name, labels in vocabulary.items():
            code_by_label = {label: k + 1 for k, label in enumerate(labels)}
            new_codes = np.array([0, *(code_by_label.get(label, 0) for label in self.vocabulary[name])], np.int32)
            columns.append(new_codes[self.categorical[:, list(self.vocabulary).index(name)]])
        return replace(
            self,
            categorical=_stack_columns(columns, self.num_users, np.int32),
            vocabulary={name: tuple(labels) for name, labels in vocabulary.items()},
        )

    def fit_scale(self, is_training_user: np.ndarray) -> dict[str, tuple[float, float]]:
        """Numeric column -> mean and standard deviation over the training users who have a value.

        Without any value, the mean is 0 and the deviation 1. If all values are equal, up to rounding errors, the
        deviation is 1. is_training_user: bool[N].
        """
        scale = {}
        for name, column in zip(self.numeric_names, self.numeric.T, strict=True):
            values = column[is_training_user].astype(np.float64)
            values = values[~np.isnan(values)]
            mean, deviation = (float(values.mean()), float(values.std())) if len(values) else (0.0, 0.0)
            scale[name] = mean, deviation if deviation > MIN_RELATIVE_DEVIATION * abs(mean) else 1.0
        return scale

    def standardise(self, scale: Mapping[str, Sequence[float]]) -> np.ndarray:
        """float32[N, 2M]: M z-scores, 0 where missing, then M flags, 1 where missing.

        scale: numeric column -> mean and standard deviation; M columns, which give the order of the result.
        """
        _require_columns(scale, self.numeric_names, "numeric")
        values = self.numeric[:, [self.numeric_names.index(name) for name in scale]]
        mean, deviation = np.array([*scale.values()], np.float64).reshape(-1, 2).T
        is_missing = np.isnan(values)
        z_scores = np.where(is_missing, 0, (values - mean) / deviation)
        return np.hstack([z_scores, is_missing]).astype(np.float32)

    def fit_and_standardise(self, is_training_user: np.ndarray) -> np.ndarray:
        """float32[N, 2M]: as `standardise`, with the scale of the training users. is_training_user: bool[N]."""
        return self.standardise(self.fit_scale(is_training_user))


def _stack_columns(columns: list[np.ndarray], num_rows: int, dtype: type) -> np.ndarray:
    """dtype[num_rows, len(columns)]: the columns as one array, also if there are none."""
    return np.stack(columns, axis=1).astype(dtype) if columns else np.empty((num_rows, 0), dtype)


def _require_columns(trained: Mapping[str, object], available: Mapping[str, object] | Sequence[str], kind: str) -> None:
    """Raises a DataError if a column that the model was trained with is missing.

    trained, available: names of the columns of the model and of the table. kind: categorical or numeric.
    """
    missing = [name for name in trained if name not in available]
    if missing:
        raise DataError(
            f"the model was trained with the {kind} attributes {', '.join(trained)}, but {ATTRIBUTES_FILE} has no "
            f"{', '.join(missing)}; it has: {', '.join(available) or 'none'}. Name them under data.attributes in "
            "params.yaml, or train the model again."
        )
