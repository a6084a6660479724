"""Makes the champion's lists for today's evaluation queries, so that it can be compared with a challenger."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from befriend import files
from befriend.analysis.evaluate_settings import EvaluateSettings
from befriend.analysis.measure import predictions
from befriend.data.columns import USER_ID
from befriend.data.contracts import USERS, read_table
from befriend.data.event_log import USERS_FILE, EventLog
from befriend.data.renumber import renumber
from befriend.data.split import read_split
from befriend.evaluation.protocol import make_eval_queries
from befriend.evaluation.run_rankers import run_rankers
from befriend.retrieval.loaded_models import LoadedModels
from befriend.retrieval.ranker import read_boosters

MODEL = "both"


def replay_champion(run: Path, prepared: Path, settings: EvaluateSettings, out: Path) -> None:
    """Makes the lists of model `both`, as the run in folder `run` trained it, for the queries of the log in `prepared`.

    Writes a run folder `out`: prepared/, the log with the internal ids that those models use, and
    reports/predictions/both/.
    """
    ids = read_table(run / "prepared" / USERS_FILE, USERS)[USER_ID]
    renumber(prepared, ids, out / "prepared")
    log = EventLog.read(out / "prepared")
    split = read_split(out / "prepared", log)
    models, boosters = (
        LoadedModels.load(out / "prepared", run / "models", log),
        read_boosters(run / "models" / "ranker"),
    )
    queries_by_regime = {
        regime: make_eval_queries(log, split, settings.part, settings.events, regime) for regime in settings.regimes
    }
    recommender = models.recommender(boosters)
    lists = run_rankers(
        recommender, log, models.activity.histories, queries_by_regime, (MODEL,), "the champion's lists"
    ).protocol
    with files.atomic(out / "reports" / "predictions") as folder:
        (folder / MODEL).mkdir(parents=True)
        for regime, queries in queries_by_regime.items():
            table: pl.DataFrame = predictions(log, queries, lists[regime][MODEL])
            table.write_parquet(folder / MODEL / f"{regime}.parquet", compression="zstd")
