"""Training stages under Prefect: reproduces one, shows how far it is, its curves, and the best epoch's figures."""

from __future__ import annotations

from pathlib import Path

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from befriend import files, layout
from tasks.curves import METRICS_FILE, beside_committed, read_curves, report
from tasks.dvc import Reproduced, StageError, reproduce, stage_task
from tasks.progress import Progress
from tasks.publish import committed

TWO_TOWER, STU, RANKER = "train_two_tower", "train_stu", "train_ranker"


@stage_task(TWO_TOWER, "Train the two-tower retrieval model.", run_name=TWO_TOWER)
def train_two_tower(force: bool = False) -> Reproduced:
    """The retrieval model."""
    return train(TWO_TOWER, layout.TWO_TOWER_CURVES, force)


@stage_task(STU, "Train the model that predicts people token by token.", run_name=STU)
def train_stu(force: bool = False) -> Reproduced:
    """The STU model."""
    return train(STU, layout.STU_CURVES, force)


@stage_task(RANKER, "Learn how to order the candidates of all models and rules.", run_name=RANKER)
def train_ranker(force: bool = False) -> Reproduced:
    """The ranker."""
    outcome = reproduce(RANKER, force)
    if outcome.ran:
        learned = files.read_json(layout.RUNS / f"{RANKER}.json")["summary"]
        create_markdown_artifact(learned, key=key(RANKER, "summary"), description="What the ranker has learned from")
    return outcome


def train(stage: str, curves: Path, force: bool) -> Reproduced:
    """Reproduces a training stage. One that broke down has the curves of the epochs before, and these tell why.

    curves: the folder of its curves.
    """
    progress = Progress(key(stage, "progress"))
    try:
        outcome = reproduce(stage, force, heard=progress.hear)
    except StageError as error:
        if error.began:
            publish(stage, curves)
        raise
    if outcome.ran:
        progress.finish(files.read_json(layout.RUNS / f"{stage}.json")["summary"])
    publish(stage, curves)
    return outcome


def publish(stage: str, curves: Path) -> None:
    """Shows what there is: a training that broke down in its first epoch left nothing."""
    metrics = curves / METRICS_FILE
    if not metrics.exists():
        return
    create_markdown_artifact(
        report(read_curves(curves), stage), key=key(stage, "curves"), description="How the training went"
    )
    before = committed(metrics)
    create_table_artifact(
        beside_committed(files.read_json(metrics), before),
        key=key(stage, "figures"),
        description="The best epoch, beside "
        + ("that of the last committed training." if before else f"nothing: no {metrics} is committed yet."),
    )


def key(stage: str, shows: str) -> str:
    """An artifact's key: Prefect takes dashes, stages have underscores."""
    return f"{stage.replace('_', '-')}-{shows}"
