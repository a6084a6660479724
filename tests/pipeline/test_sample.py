"""The whole pipeline on the sample in a fresh clone: a second run has equal bytes, and models find the communities."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from befriend.tokens.codebook_metrics import community_agreement
from tests.pipeline.conftest import call, copy_checkout

pytestmark = [pytest.mark.proof, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def sample_clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample") / "befriend"
    copy_checkout(root)
    call(root, "dvc", "repro")
    return root


def test_forced_repro_leaves_the_lock_file_unchanged(sample_clone: Path) -> None:
    before = (sample_clone / "dvc.lock").read_bytes()
    call(sample_clone, "dvc", "repro", "--force")
    assert (sample_clone / "dvc.lock").read_bytes() == before


def test_first_tokens_agree_with_the_simulated_communities(sample_clone: Path) -> None:
    stus = pl.read_parquet(sample_clone / "models/tokens/table.parquet")
    truth = pl.read_parquet(sample_clone / "src/befriend/sample/truth.parquet")
    users = stus.join(truth, on="user_id", validate="1:1")
    assert users.height == stus.height > 2000
    agreement = community_agreement(users["token_0"].to_numpy(), users["community"].to_numpy(), seed=0)
    assert agreement["homogeneity"] >= max(0.8, agreement["shuffled"] + 0.4)


def test_clusters_agree_with_the_simulated_communities(sample_clone: Path) -> None:
    clusters = pl.read_parquet(sample_clone / "models/clusters/users.parquet")
    truth = pl.read_parquet(sample_clone / "src/befriend/sample/truth.parquet")
    users = clusters.join(truth, on="user_id", validate="1:1")
    assert users.height == clusters.height > 2500
    agreement = community_agreement(users["cluster"].to_numpy(), users["community"].to_numpy(), seed=0)
    assert agreement["homogeneity"] >= max(0.8, agreement["shuffled"] + 0.4)
    assert users["cluster"].value_counts()["count"].max() <= 0.2 * users.height
