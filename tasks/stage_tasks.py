"""The stages of dvc.yaml as Prefect tasks. One table says what each is called and what it shows on the run's page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prefect import Task

from befriend import layout
from tasks import publishers
from tasks.dvc import Reproduced, StageError, reproduce, stage_task
from tasks.training_progress import TrainingProgress


@dataclass(frozen=True)
class Stage:
    """How a stage appears in Prefect."""

    description: str
    publish: Callable[[bool], None]
    """makes artifacts of what the stage left; its argument: whether DVC ran the stage, or found it unchanged"""
    trains: bool = False
    """whether its output says how far a training is, which a progress artifact follows"""
    publish_failure: bool = False
    """whether a run that failed after it began leaves something to show: a refused log, a training that broke down"""


STAGES: dict[str, Stage] = {
    "validate": Stage(
        "Check the event log, split it, report on it.", publishers.publish_validation, publish_failure=True
    ),
    "embed_text": Stage("Make vectors of what users wrote.", publishers.publish_texts, trains=True),
    "tokenize": Stage("Give every user of the training part an STU.", publishers.publish_tokens),
    "train_two_tower": Stage(
        "Train the two-tower retrieval model.",
        publishers.training_publisher("train_two_tower", layout.TWO_TOWER_CURVES),
        trains=True,
        publish_failure=True,
    ),
    "train_stu": Stage(
        "Train the model that predicts people token by token.",
        publishers.training_publisher("train_stu", layout.STU_CURVES),
        trains=True,
        publish_failure=True,
    ),
    "train_ranker": Stage("Learn how to order the candidates of all models and rules.", publishers.publish_ranker),
    "evaluate": Stage("Rank people for held-out events, measure the lists.", publishers.publish_evaluation),
    "cluster": Stage(
        "Learn clusters of users, and measure what they save a search.", publishers.publish_clusters, trains=True
    ),
    "report": Stage("Tell the whole run on one page.", publishers.publish_report),
}
"""in the order in which they run"""


def run_stage(name: str, force: bool = False) -> Reproduced:
    """Reproduces a stage and publishes what it left."""
    stage = STAGES[name]
    progress = TrainingProgress(publishers.key(name, "progress")) if stage.trains else None
    try:
        outcome = reproduce(name, force, on_line=progress.follow if progress else None)
    except StageError as error:
        if stage.publish_failure and error.began:
            stage.publish(True)
        raise
    if progress and outcome.ran:
        progress.finish(publishers.summary(name))
    stage.publish(outcome.ran)
    return outcome


def _task_of(name: str) -> Task[..., Reproduced]:
    @stage_task(name, STAGES[name].description, run_name=name)
    def run(force: bool = False) -> Reproduced:
        return run_stage(name, force)

    return run


TASKS: dict[str, Task[..., Reproduced]] = {name: _task_of(name) for name in STAGES}
"""stage -> its task, called with `force`: run it also where nothing has changed"""
