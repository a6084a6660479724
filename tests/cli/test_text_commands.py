"""`befriend text`: users with similar texts, and statements about a user; what the numbers mean."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from tests.conftest import call


@pytest.fixture(scope="module")
def project(trained_project_with_texts: Path) -> Path:
    return trained_project_with_texts


@pytest.fixture(scope="module")
def authors(project: Path) -> list[tuple[str, list[str]]]:
    """(external id, texts in time order) of the users with texts, those with the most texts first."""
    users = pl.read_parquet(project / "prepared" / "users.parquet", columns=["user", "user_id"])
    texts = pl.read_parquet(project / "prepared" / "texts.parquet").join(users, on="user", maintain_order="left")
    by_user = texts.group_by("user_id", maintain_order=True).agg("text").sort(pl.col("text").list.len(), descending=True)
    return [(str(user), written) for user, written in by_user.iter_rows()]


def test_similar_shows_what_the_user_wrote_and_whom_it_found(project: Path, authors: list[tuple[str, list[str]]]) -> None:
    user, written = authors[0]
    assert len(written) > 3
    done = call(project, "text", "similar", user, "-k", "4")
    assert done.returncode == 0 and "loading text vectors ..." in done.stderr
    assert f"{user} wrote {len(written)} texts. The last:" in done.stdout
    for text in written[-3:]:
        assert f"  {' '.join(text.split())[:60]}" in done.stdout
    rows = json.loads(call(project, "text", "similar", user, "-k", "4", "--json").stdout)
    assert len(rows) == 4 and user not in {str(row["user"]) for row in rows}


def test_infer_says_that_similarity_is_no_probability(project: Path, authors: list[tuple[str, list[str]]]) -> None:
    done = call(project, "text", "infer", authors[0][0], "interested in chess")
    assert done.returncode == 0, done.stderr
    assert "% of users" in done.stdout
    assert "cosine of the statement and all texts of the user, from -1 to 1; it is not a probability" in done.stdout
    row = json.loads(call(project, "text", "infer", authors[0][0], "interested in chess", "--json").stdout)[0]
    assert -1 <= row["similarity"] <= 1 and 0 <= row["nearer_than"] <= 1


def test_a_user_without_texts_is_an_error_that_names_some_with_texts(
    project: Path, authors: list[tuple[str, list[str]]]
) -> None:
    names = {user for user, _ in authors}
    users = pl.read_parquet(project / "prepared" / "users.parquet")["user_id"].cast(pl.String)
    silent = next(user for user in users if user not in names)
    done = call(project, "text", "similar", silent)
    assert done.returncode == 2
    assert f"user {silent} has no texts. Users who have: " in done.stderr
    assert set(done.stderr.strip().rstrip(".").split("Users who have: ")[1].split(", ")) <= names
