"""Learned rivals from other packages under the evaluation protocol, on the same events and candidates as befriend.

    python -m venv RIVALS && RIVALS/bin/pip install -r bench/rivals.txt      # in an environment of their own
    python bench/rivals.py PREPARED --python RIVALS/bin/python --folder FOLDER [--models als hstu] [--seeds 3]

PREPARED is the folder prepared/ of a validated log. The rivals need other versions of NumPy and pandas than befriend,
so `bench/rival_models.py` runs with their Python: it reads the log and the requests of the evaluation from FOLDER, and
writes a list for each request. They are scored here. Every rival is given both directions of all events before the
cutoff of a list, and chooses its settings on validation. Prints a Markdown table: NDCG@10 by list and regime, with 95 %
confidence intervals on list new, minutes of training and milliseconds a list.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

import numpy as np
import polars as pl

from befriend import files
from befriend.analysis.evaluate_settings import EvaluateSettings
from befriend.analysis.measure import compute_metrics
from befriend.data.event_log import EventLog
from befriend.data.regimes import REGIMES, Regime
from befriend.data.split import Split, read_split
from befriend.evaluation.protocol import EvalQueries, make_eval_queries
from befriend.features.histories import Histories

MODELS = ("als", "bpr", "bm25", "sasrec", "esasrec", "hstu", "tgn")
RIVAL_REGIMES: tuple[Regime, ...] = ("streaming", "daily", "frozen")
QUIET = {"OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}  # implicit computes with threads of its own
SEGMENTS = {"new": "new", "any": "all"}


def write_log(log: EventLog, split: Split, folder: Path) -> None:
    """Writes the contact events of a log as events.parquet, with internal ids, and the split as split.json."""
    contact = log.is_contact
    table = {"actor": log.actor[contact], "target": log.target[contact], "timestamp": log.timestamp[contact]}
    pl.DataFrame(table).write_parquet(folder / "events.parquet")
    bounds = {"users": log.num_users, "validation": split.t_validation, "test": split.t_test}
    files.write_json(folder / "split.json", bounds)
    pl.DataFrame({"first_seen": log.first_seen}).write_parquet(folder / "users.parquet")


def write_requests(log: EventLog, queries: dict[Regime, EvalQueries], path: Path) -> None:
    """Writes a row for each list: user, cutoff (UTC second), whether existing contacts at the event are left out, the
    event's own UTC second, and its target, by which settings are chosen on the validation part."""
    tables = []
    for regime, q in queries.items():
        events = q.events[q.row_event]
        tables.append(
            pl.DataFrame(
                {
                    "regime": pl.Series([regime] * len(events), dtype=pl.String),
                    "user": log.actor[events],
                    "target": log.target[events],
                    "cutoff": q.cutoff[q.row_event],
                    "second": log.timestamp[events],
                    "new": q.row_excludes_contacts,
                }
            )
        )
    pl.concat(tables).write_parquet(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--python", type=Path, required=True, help="Python of the environment of the rivals")
    parser.add_argument("--folder", type=Path, required=True, help="for exchange with it, and for its lists")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--part", choices=("validation", "test"), default="test")
    parser.add_argument("--events", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    log = EventLog.read(arguments.prepared)
    split, histories = read_split(arguments.prepared, log), Histories.of(log)
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    write_log(log, split, folder)
    parts = {
        part: {r: make_eval_queries(log, split, part, arguments.events, r) for r in RIVAL_REGIMES}
        for part in ("validation", arguments.part)
    }
    for part, queries in parts.items():
        write_requests(log, queries, folder / f"requests_{part}.parquet")
    queries, names = parts[arguments.part], [f"{kind} {r}" for kind in SEGMENTS for r in REGIMES if r in RIVAL_REGIMES]
    print("| rival | " + " | ".join(names) + " | training, minutes | a list, ms |\n|---|" + "---:|" * (len(names) + 2))
    for model in arguments.models:
        for seed in range(arguments.seeds):
            script = Path(__file__).with_name("rival_models.py")
            command = [arguments.python, script, model, folder, arguments.part, "--seed", str(seed)]
            subprocess.run(command, check=True, env=os.environ | QUIET)
            name = f"{model}_{arguments.part}_{seed}"
            lists, times = np.load(folder / f"{name}.npy"), files.read_json(folder / f"{name}.json")
            cells, start = {}, 0
            for regime, q in queries.items():
                rows = lists[start : start + len(q.row_event)]
                start += len(rows)
                by_model = {model: rows}
                metrics = compute_metrics(log, histories, split, q, by_model, by_model, EvaluateSettings()).metrics
                for kind, segment in SEGMENTS.items():
                    cell = metrics[kind][segment][model]
                    cells[f"{kind} {regime}"] = f"{cell['ndcg@10']:.3f}" + (
                        f" ({cell['ndcg@10_low']:.3f} to {cell['ndcg@10_high']:.3f})" if kind == "new" else ""
                    )
            figures = [*(cells[name] for name in names), f"{times['minutes']:.1f}", f"{times['milliseconds']:.1f}"]
            print(f"| {model} {times['settings']} | " + " | ".join(figures) + " |", flush=True)


if __name__ == "__main__":
    main()
