"""Makes the champion's lists for the challenger's evaluation events, so that the two runs can be compared.

Champion: the promoted run that is served. Challenger: the current run of the project.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from befriend import files
from befriend.analysis.evaluate_settings import EvaluateSettings
from befriend.analysis.measure import predictions_table
from befriend.analysis.metric_tables import SERVED_MODEL
from befriend.data.columns import USER_ID
from befriend.data.contracts import USERS, read_table
from befriend.data.event_log import USERS_FILE, EventLog
from befriend.data.renumber import renumber
from befriend.data.split import read_split
from befriend.evaluation.protocol import make_eval_queries
from befriend.evaluation.run_rankers import run_rankers
from befriend.retrieval.loaded_models import LoadedModels
from befriend.retrieval.ranker import Rankers

"""the ranker over the candidates of all models and heuristics, whose lists users get by default"""


def replay_champion(run: Path, prepared: Path, settings: EvaluateSettings, out: Path) -> None:
    """Makes lists for evaluation events of the log in `prepared`, with the trained models of the champion.

    run: folder of the champion; prepared: the challenger's log; settings: part, number of events and regimes of the
    evaluation. Writes the folder `out` in the layout of a run: prepared/ is the challenger's log with other internal
    ids, and reports/predictions/both/ has the lists. In that log, all users of the champion's log have the internal ids
    by which the champion's models know them, and users who are new get the numbers after these.

    Raises DataError if the champion's models cannot be loaded.
    """
    external_ids = read_table(run / "prepared" / USERS_FILE, USERS)[USER_ID]
    renumber(prepared, external_ids, out / "prepared")
    log = EventLog.read(out / "prepared")
    split = read_split(out / "prepared", log)
    models, rankers = (
        LoadedModels.load(out / "prepared", run / "models", log),
        Rankers.read(run / "models" / "ranker"),
    )
    queries_by_regime = {
        regime: make_eval_queries(log, split, settings.part, settings.events, regime) for regime in settings.regimes
    }
    recommender = models.recommender(rankers)
    evaluation_lists = run_rankers(
        recommender, log, models.activity.histories, queries_by_regime, (SERVED_MODEL,), "lists of the champion"
    )
    lists = evaluation_lists.protocol  # as the challenger's lists were scored: without cold-start users
    with files.atomic(out / "reports" / "predictions") as folder:
        (folder / SERVED_MODEL).mkdir(parents=True)
        for regime, queries in queries_by_regime.items():
            table: pl.DataFrame = predictions_table(log, queries, lists[regime][SERVED_MODEL])
            table.write_parquet(folder / SERVED_MODEL / f"{regime}.parquet", compression="zstd")
