"""The lists that the models of another run make for today's events: how a champion is measured beside a challenger."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from befriend import files
from befriend.config import EvaluateSettings
from befriend.data.columns import USER_ID
from befriend.data.contracts import USERS, read_table
from befriend.data.log import USERS_FILE, EventLog
from befriend.data.renumber import renumber
from befriend.data.split import read_split
from befriend.evaluation.measure import predictions
from befriend.evaluation.protocol import ask
from befriend.evaluation.ranked import ranked
from befriend.retrieval.models import Models
from befriend.retrieval.ranker import read_boosters

MODEL = "both"


def rank_again(run: Path, prepared: Path, settings: EvaluateSettings, out: Path) -> None:
    """Lists of `both`, as the run in folder `run` trained it, for the questions of the log in `prepared`.

    Writes a run folder `out`: prepared/, the log in the numbers that those models know, and reports/predictions/both/.
    """
    ids = read_table(run / "prepared" / USERS_FILE, USERS)[USER_ID]
    renumber(prepared, ids, out / "prepared")
    log = EventLog.read(out / "prepared")
    split = read_split(out / "prepared", log)
    models, boosters = Models.read(out / "prepared", run / "models", log), read_boosters(run / "models" / "ranker")
    asked = {regime: ask(log, split, settings.part, settings.events, regime) for regime in settings.regimes}
    recommender = models.recommender(boosters)
    lists = ranked(recommender, log, models.activity.histories, asked, (MODEL,), "the champion's lists").protocol
    with files.atomic(out / "reports" / "predictions") as folder:
        (folder / MODEL).mkdir(parents=True)
        for regime, questions in asked.items():
            table: pl.DataFrame = predictions(log, questions, lists[regime][MODEL])
            table.write_parquet(folder / MODEL / f"{regime}.parquet", compression="zstd")
