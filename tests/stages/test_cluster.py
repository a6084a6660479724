"""Stage cluster: its outputs are consistent, can be loaded, and are the same bytes in a second run."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from befriend import files
from befriend.data.event_log import EventLog
from befriend.errors import DataError
from befriend.models import trained_clusters as cluster_folder
from befriend.stages import cluster
from tests.conftest import file_digests
from tests.projects import PARAMS, prepare

pytestmark = pytest.mark.system  # needs a run of several stages

SETTINGS = PARAMS.cluster
FOLDERS = ("prepared", "models", "reports", ".checkpoints")


@pytest.fixture(scope="module")
def project(evaluated_project: Path) -> Path:
    return evaluated_project


def contents(root: Path) -> dict[str, str]:
    metrics = files.sha256(root / "reports" / "clusters.json")
    return file_digests(root, "models/clusters", "reports/clusters") | {"reports/clusters.json": metrics}


@pytest.mark.usefixtures("pictures")
def test_equal_inputs_give_equal_bytes(project: Path) -> None:
    cluster.run(SETTINGS, *(project / name for name in FOLDERS))  # `project` has no pictures
    before = contents(project)
    assert len(before) > 8
    cluster.run(SETTINGS, *(project / name for name in FOLDERS))
    assert contents(project) == before
    assert not list((project / ".checkpoints").rglob("*"))


def test_every_user_has_a_cluster_and_the_metrics_agree(project: Path) -> None:
    log = EventLog.read(project / "prepared")
    table = pl.read_parquet(project / "models" / "clusters" / "users.parquet")
    assert table["user_id"].equals(log.user_ids)
    assert table["cluster"].is_between(0, 7).all() and table["share"].is_between(1 / 8 - 1e-3, 1).all()
    metrics = files.read_json(project / "reports" / "clusters.json")
    count = table["cluster"].value_counts()["count"]
    assert metrics["used"] == len(count)
    assert metrics["largest_share"] == pytest.approx(count.max() / log.num_users, abs=1e-6)
    assert (
        metrics["search"]["alone"]["1"]["relative_recall"]
        == metrics["search"]["with_recent"]["1"]["relative_recall"]
        == 1
    )
    summaries = files.read_json(project / "reports" / "clusters" / "summaries.json")
    assert sum(summary["users"] for summary in summaries) == log.num_users


def test_clusters_of_another_log_are_rejected(project: Path, tmp_path: Path) -> None:
    log = EventLog.read(project / "prepared")
    model, search = cluster_folder.load_clusters(project / "models" / "clusters", log)
    assert search.probe_share == SETTINGS.probe_share and len(model.clusters.prior) == 8
    assert float(model.clusters.temperature) < SETTINGS.temperature
    prepare(tmp_path, users=60, events=500)
    with pytest.raises(DataError, match=r"belongs to another log: .*Run `dvc repro cluster`"):
        cluster_folder.load_clusters(project / "models" / "clusters", EventLog.read(tmp_path / "prepared"))
    with pytest.raises(DataError, match=r"holds no clusters. Run `dvc repro cluster` first"):
        cluster_folder.load_clusters(tmp_path, log)
