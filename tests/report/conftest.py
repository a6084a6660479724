"""A small project, run from its log to its page."""

from __future__ import annotations

from pathlib import Path

import pytest

from befriend.config import DataSettings, EvaluateSettings, Params, ReportSettings
from befriend.models.cluster_settings import ClusterSettings
from befriend.stages import cluster, evaluate, report
from befriend.stages.record import recorded
from tests.stages.conftest import prepare, train_everything

PARAMS = Params(
    data=DataSettings(roles={"view": "signal", "block": "exclude"}),
    evaluate=EvaluateSettings(events=80, bootstrap=100),
    cluster=ClusterSettings(epochs=2, clusters=8, events_per_batch=128, validation_events=50, threads=1),
    report=ReportSettings(examples=2, people=3),
)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reported")
    prepare(root, users=120, events=3000)
    train_everything(root)
    folders = root / "prepared", root / "models", root / "reports"
    recorded("evaluate", root / "runs", lambda: evaluate.run(PARAMS.evaluate, *folders))
    cluster.run(PARAMS.cluster, *folders, root / ".checkpoints")
    report.run(PARAMS, root)
    return root
