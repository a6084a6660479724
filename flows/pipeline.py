"""The whole pipeline: the data, then each stage in order. By hand: `python -m flows.pipeline`."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import flow

from befriend import layout
from befriend.files import stage_lock
from tasks.cluster import cluster
from tasks.dvc import Reproduced, update_data
from tasks.embed_text import embed_text
from tasks.evaluate import evaluate
from tasks.notify import failed
from tasks.report import report
from tasks.tokenize import tokenize
from tasks.train import train_ranker, train_stu, train_two_tower
from tasks.validate import validate


def _run_name() -> str:
    return f"pipeline {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


@flow(name="pipeline", flow_run_name=_run_name, persist_result=False, on_failure=[failed], on_crashed=[failed])
def pipeline(update: bool = True, force: bool = False) -> list[Reproduced]:
    """Brings everything up to date: data, checks, texts, tokens, models, evaluation, clusters, the page.

    Args:
        update: Look whether the source of the data has changed. Off, the data here is used as it is.
        force: Run every stage, also where nothing has changed.
    """
    with stage_lock(layout.LOCK):
        done = [update_data()] if update else []
        done.append(validate(force))
        done.append(embed_text(force))
        done.append(tokenize(force))
        done.append(train_two_tower(force))
        done.append(train_stu(force))
        done.append(train_ranker(force))
        done.append(evaluate(force))
        done.append(cluster(force))
        done.append(report(force))
        return done


if __name__ == "__main__":
    from flows import by_hand

    by_hand(pipeline)
