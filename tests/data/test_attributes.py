"""Attributes in memory: label codes, scales fitted on training users, and tables of a later log."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from befriend.data.attributes import Attributes
from befriend.errors import DataError

IS_TRAINING_USER = np.array([True, True, True, False, False])


def table() -> pl.DataFrame:
    """Five users; the last two joined after training."""
    return pl.DataFrame(
        {
            "user": pl.Series(range(5), dtype=pl.Int32),
            "country": pl.Series(["np", None, "de", "fr", "np"], dtype=pl.Enum(["de", "fr", "np"])),
            "plan": pl.Series([None] * 4 + ["free"], dtype=pl.Enum(["free"])),
            "age": pl.Series([20, 40, None, 90, None], dtype=pl.Float32),
            "level": pl.Series([7, 7, 7, 8, 7], dtype=pl.Float32),
            "late": pl.Series([None, None, None, 3, None], dtype=pl.Float32),
        }
    )


def test_label_codes_start_at_one_and_numbers_are_not_scaled(tmp_path: Path) -> None:
    table().write_parquet(tmp_path / "attributes.parquet")
    attributes = Attributes.read(tmp_path)
    assert attributes.categorical.dtype == np.int32
    assert attributes.categorical.tolist() == [[3, 0], [0, 0], [1, 0], [2, 0], [3, 1]]
    assert attributes.vocabulary == {"country": ("de", "fr", "np"), "plan": ("free",)}
    assert attributes.cardinalities == (4, 2)
    assert attributes.numeric.dtype == np.float32
    assert np.array_equal(attributes.numeric[:, 0], [20, 40, np.nan, 90, np.nan], equal_nan=True)
    assert attributes.names == ("country", "plan", "age", "level", "late")
    assert attributes.num_users == 5


def test_a_table_without_attributes_gives_empty_arrays(tmp_path: Path) -> None:
    table().select("user").write_parquet(tmp_path / "attributes.parquet")
    attributes = Attributes.read(tmp_path)
    assert (attributes.categorical.shape, attributes.numeric.shape, attributes.names) == ((5, 0), (5, 0), ())
    assert attributes.fit_and_standardise(IS_TRAINING_USER).shape == (5, 0)
    assert attributes.with_vocabulary(attributes.training_vocabulary(IS_TRAINING_USER)).categorical.shape == (5, 0)


def test_numbers_are_standardised_with_the_training_users_only() -> None:
    z = Attributes.from_table(table()).fit_and_standardise(IS_TRAINING_USER)
    assert z.dtype == np.float32
    assert z[:, 0].tolist() == [-1, 1, 0, 6, 0]  # mean 30, deviation 10, of 20 and 40
    assert z[:, 1].tolist() == [0, 0, 0, 1, 0]  # constant in training: no deviation to divide by
    assert z[:, 2].tolist() == [0, 0, 0, 3, 0]  # missing for all training users
    assert z[:, 3:].tolist() == [[0, 0, 1], [0, 0, 1], [1, 0, 1], [0, 0, 0], [1, 0, 1]]


def test_a_constant_column_is_not_divided_by_its_rounding_error() -> None:
    values = np.full((1001, 1), 0.1, np.float32)
    values[:500] = np.nextafter(np.float32(0.1), np.float32(1))
    values[-1] = 1.1
    z = Attributes(np.empty((1001, 0), np.int32), {}, values, ("x",)).fit_and_standardise(np.arange(1001) < 1000)
    assert np.abs(z[:-1, 0]).max() < 1e-6
    assert z[-1, 0] == pytest.approx(1, abs=1e-6)


def test_a_label_that_no_training_user_has_gets_the_code_zero() -> None:
    attributes = Attributes.from_table(table())
    vocabulary = json.loads(json.dumps(attributes.training_vocabulary(IS_TRAINING_USER)))
    assert vocabulary == {"country": ["de", "np"], "plan": []}
    encoded = attributes.with_vocabulary(vocabulary)
    assert encoded.categorical.tolist() == [[2, 0], [0, 0], [1, 0], [0, 0], [2, 0]]
    assert encoded.cardinalities == (3, 1)


def test_a_later_table_is_encoded_with_the_vocabulary_and_scale_of_training() -> None:
    """A new label that sorts first, a new column, and another order of columns: the values of the first users stay the same."""
    trained = Attributes.from_table(table())
    vocabulary, scale = (
        trained.training_vocabulary(IS_TRAINING_USER),
        json.loads(json.dumps(trained.fit_scale(IS_TRAINING_USER))),
    )
    country = pl.Series(["np", None, "de", "fr", "np", "at"], dtype=pl.Enum(["at", "de", "fr", "np"]))
    added_user = pl.DataFrame(
        {"user": [5], "age": [80.0], "level": [7.0]}, schema=table().select("user", "age", "level").schema
    )
    later = Attributes.from_table(
        pl.concat([table().drop("country"), added_user], how="diagonal")
        .with_columns(country.alias("country"), pl.Series("city", ["x"] * 6, dtype=pl.Enum(["x"])))
        .select("user", "late", "level", "city", "age", "plan", "country")
    )
    before, after = trained.with_vocabulary(vocabulary), later.with_vocabulary(vocabulary)
    assert np.array_equal(after.categorical[:5], before.categorical)
    assert after.categorical[5].tolist() == [0, 0]
    assert after.vocabulary == before.vocabulary
    assert np.array_equal(later.standardise(scale)[:5], trained.standardise(scale))
    assert later.standardise(scale)[5].tolist() == [5, 0, 0, 0, 0, 1]


def test_the_error_for_a_missing_column_names_the_columns_of_model_and_table() -> None:
    attributes = Attributes.from_table(table().drop("country", "age"))
    with pytest.raises(DataError, match=r"categorical attributes country, plan, but .* has no country; it has: plan"):
        attributes.with_vocabulary({"country": ["de"], "plan": []})
    with pytest.raises(DataError, match=r"numeric attributes age, but .* has no age; it has: level, late"):
        attributes.standardise({"age": (0, 1)})


@pytest.mark.parametrize(
    ("change", "broken_rule"),
    [
        (pl.col("user").reverse(), "numbered in order"),
        (pl.lit(float("inf"), pl.Float32).alias("age"), "finite or missing"),
        (pl.col("country").cast(pl.String), "Enums of labels or Float32"),
    ],
)
def test_a_table_that_breaks_the_contract_is_an_error(change: pl.Expr, broken_rule: str, tmp_path: Path) -> None:
    table().with_columns(change).write_parquet(tmp_path / "attributes.parquet")
    with pytest.raises(DataError, match=broken_rule):
        Attributes.read(tmp_path)


def test_a_missing_table_is_an_error_with_advice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Run `dvc repro validate` first"):
        Attributes.read(tmp_path)
