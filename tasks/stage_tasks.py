"""The stages of dvc.yaml as Prefect tasks.

STAGES has the description of each stage, and its publisher: the function that shows its results on Prefect's page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from prefect import Task
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from befriend import layout
from tasks import publishers
from tasks.dvc import reproduce, stage_task
from tasks.dvc_process import StageError, StageOutcome, changed_stages
from tasks.stage_graph import read_stage_graph, with_dependents
from tasks.training_progress import ProgressArtifact


@dataclass(frozen=True)
class Stage:
    """How a stage appears in Prefect."""

    description: str
    publish: Callable[[bool], None]
    """shows the results of the stage as Prefect artifacts; its argument is False if the stage was up to date already"""
    trains: bool = False
    """whether the output of the stage has the progress of a training, which is shown as a progress artifact"""
    publish_failure: bool = False
    """whether results are published also if the stage failed, such as the report on a log that was refused"""


STAGES: dict[str, Stage] = {
    "validate": Stage(
        "Check the event log, split it by time, and write a report about it.",
        publishers.publish_validation,
        publish_failure=True,
    ),
    "embed_text": Stage(
        "Train the text model, and compute text vectors of users.", publishers.publish_texts, trains=True
    ),
    "tokenize": Stage("Assign every training user a semantic id (STU).", publishers.publish_tokens),
    "train_two_tower": Stage(
        "Train the two-tower retrieval model.",
        publishers.training_publisher("train_two_tower", layout.TWO_TOWER_CURVES),
        trains=True,
        publish_failure=True,
    ),
    "train_stu": Stage(
        "Train the model that predicts users token by token.",
        publishers.training_publisher("train_stu", layout.STU_CURVES),
        trains=True,
        publish_failure=True,
    ),
    "train_ranker": Stage(
        "Train the ranker, which orders the candidates of all models and heuristics.", publishers.publish_ranker
    ),
    "evaluate": Stage(
        "Rank users for held-out events, and compute metrics of the lists.", publishers.publish_evaluation
    ),
    "cluster": Stage(
        "Learn clusters of users, and measure how much they speed up search.", publishers.publish_clusters, trains=True
    ),
    "report": Stage("Describe the whole run on one page.", publishers.publish_report),
}
"""in the order in which they run"""


TASK_RUNNER = cast(TaskRunner[PrefectFuture[Any]], ThreadPoolTaskRunner(max_workers=2))
"""for flows: stages run at the same time, of which no more than two are ever ready"""


def run_stages(names: Sequence[str], force: bool = False) -> list[StageOutcome]:
    """Runs the tasks of stages in a flow, each as soon as those that it depends on have ended.

    Stages that did not change, and depend on none that did, are not run: DVC is asked once for all of them.
    """
    graph = read_stage_graph()
    out_of_date = with_dependents(changed_stages(), graph)
    futures: dict[str, PrefectFuture[StageOutcome]] = {}
    for name in names:
        upstream = [futures[dependency] for dependency in graph[name] if dependency in futures]
        futures[name] = TASKS[name].submit(force, not force and name not in out_of_date, wait_for=upstream)
    return [future.result() for future in futures.values()]


def run_stage(name: str, force: bool = False, is_up_to_date: bool = False) -> StageOutcome:
    """Brings a stage up to date, and publishes its results.

    force: run it also if nothing changed; is_up_to_date: DVC has said so, and is not asked again.
    """
    if is_up_to_date:
        STAGES[name].publish(False)
        return StageOutcome(name, False, 0.0)
    stage = STAGES[name]
    progress = ProgressArtifact(publishers.artifact_key(name, "progress")) if stage.trains else None
    try:
        outcome = reproduce(name, force, on_line=progress.follow if progress else None)
    except StageError as error:
        if stage.publish_failure and error.began:
            stage.publish(True)
        raise
    if progress and outcome.ran:
        progress.finish(publishers.stage_summary(name))
    stage.publish(outcome.ran)
    return outcome


def _make_task(name: str) -> Task[..., StageOutcome]:
    @stage_task(name, STAGES[name].description, run_name=name)
    def run(force: bool = False, is_up_to_date: bool = False) -> StageOutcome:
        return run_stage(name, force, is_up_to_date)

    return run


TASKS: dict[str, Task[..., StageOutcome]] = {name: _make_task(name) for name in STAGES}
"""name of a stage -> its task, with the parameters of `run_stage`"""
