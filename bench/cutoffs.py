"""Backtest over several cutoffs: how much results depend on where a log is split into training and evaluation.

    python bench/cutoffs.py PROJECT [PROJECT ...] --folder RUNS [--cutoffs 0.2 0.25 ...] [--seed 0] [--set S.NAME=VALUE]

PROJECT is a folder with params.yaml and prepared/, as `befriend use` and `befriend validate` leave it; texts and
attributes are not used. A cutoff is a share c of the log: the models are trained on the events before c, the ranker on
the next tenth of the log, and all are measured on the tenth after that, with the project's settings. By default the
last measured tenth ends at 0.9, where the test part of the default split begins, so that settings can be chosen by it.

Every run is a folder of its own in RUNS, with all stages from validate to evaluate. A stage that has finished is not
run again: an interrupted backtest continues.

Prints a Markdown table a project, a row for each list and regime: means over the cutoffs of NDCG@10 of the models, of
the ranker without models (boosted), and of the best rule in hindsight: the single rule (heuristic, a ranking without
learned parameters) with the best mean. Then, in how many of the cutoffs `both` is ahead of that rule and of boosted,
and the mean differences with their standard errors. On list new, all first contacts are measured (segment `all new`).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
from ruamel.yaml import YAML

from befriend import files
from befriend.analysis.metric_tables import LEARNED
from befriend.data.event_log import EventLog
from befriend.data.regimes import REGIMES

CUTOFFS = [0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7]
TENTH = 0.1
SEGMENTS = {"new": "all new", "any": "all"}
STAGES = {  # stage -> what it writes last
    "validate": "prepared/split.json",
    "embed-text": "models/text",
    "tokenize": "models/tokens",
    "train-two-tower": "models/two_tower",
    "train-stu": "models/stu",
    "train-ranker": "models/ranker",
    "evaluate": "reports/metrics.json",
}
SEEDED = ("embed_text", "tokenize", "train_two_tower", "train_stu", "train_ranker")
Metrics = dict[str, Any]


def run_at(project: Path, cutoff: float, folder: Path, seed: int, overrides: list[str]) -> Metrics:
    """The content of metrics.json of a run at a cutoff, in `folder`."""
    metrics = folder / STAGES["evaluate"]
    if not metrics.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "data").is_dir():
            _write_log(project, cutoff + 2 * TENTH, folder)
        _write_params(project, cutoff, folder, seed, overrides)
        for stage, output in STAGES.items():
            if not (folder / output).exists():
                print(f"{folder}: {stage}", flush=True)
                with (folder / "log.txt").open("a") as log:
                    program = Path(sys.executable).with_name("befriend")
                    subprocess.run([program, stage], cwd=folder, check=True, stdout=log, stderr=log)
    result: Metrics = files.read_json(metrics)
    return result


def _write_log(project: Path, share: float, folder: Path) -> None:
    """Writes the first share of a project's log, with the ids of its users, to `folder`/data."""
    log = EventLog.read(project / "prepared")
    end = round(share * log.num_events)
    labels = pl.Series(log.actions, dtype=pl.String)
    table = pl.DataFrame(
        {
            "actor_id": log.user_ids.gather(log.actor[:end]),
            "action": labels.gather(log.action[:end]),
            "target_id": log.user_ids.gather(log.target[:end]),
            "timestamp": log.timestamp[:end],
        }
    )
    with files.atomic(folder / "data") as data:
        data.mkdir()
        table.write_parquet(data / "events.parquet")


def _write_params(project: Path, cutoff: float, folder: Path, seed: int, overrides: list[str]) -> None:
    yaml = YAML()
    params = yaml.load(project / "params.yaml")
    log = EventLog.read(project / "prepared")
    is_integer = log.user_ids.dtype.is_integer()
    params["data"] = {
        "format": "parquet",
        "columns": {name: name for name in ("actor_id", "action", "target_id", "timestamp")},
        "id_type": "integer" if is_integer else "string",
        "timestamp_unit": "s",
        "actions": list(log.actions),
        "roles": dict(params["data"].get("roles") or {}),
    }
    end = cutoff + 2 * TENTH
    params["validate"] |= {"train_until": cutoff / end, "validation_until": (cutoff + TENTH) / end}
    for stage in SEEDED:
        params[stage]["seed"] = seed
    for override in overrides:
        name, value = override.split("=", 1)
        stage, setting = name.split(".", 1)
        params[stage][setting] = YAML(typ="safe").load(value)
    yaml.dump(params, folder / "params.yaml")


def cell(metrics: Metrics, kind: str, regime: str) -> dict[str, float]:
    """Model -> NDCG@10; also `n`, the number of lists."""
    by_model = metrics.get(regime, {}).get(kind, {}).get(SEGMENTS[kind], {})
    figures = {model: values["ndcg@10"] for model, values in by_model.items()}
    return figures | {"n": next(iter(by_model.values()))["n"]} if figures else {}


def best_rule(cells: list[dict[str, float]]) -> str:
    """The rule with the best mean over some cutoffs."""
    rules = [name for name in cells[0] if name not in (*LEARNED, "n")]
    return max(rules, key=lambda name: statistics.fmean(figures[name] for figures in cells))


def difference(cells: list[dict[str, float]], other: str) -> str:
    """By how much `both` is ahead of another ranking: mean, standard error, and at how many cutoffs."""
    values = [figures["both"] - figures[other] for figures in cells]
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.fmean(values):+.3f} ± {error:.3f}, {sum(value > 0 for value in values)} of {len(values)}"


def print_table(runs: list[Metrics]) -> None:
    models = ("two-tower", "stu", "both", "boosted")
    print("| list | lists | " + " | ".join(models) + " | best rule | both - rule | both - boosted |")
    print("|---|" + "---:|" * (len(models) + 2) + "---|---|")
    for kind in SEGMENTS:
        for regime in REGIMES:
            cells = [figures for run in runs if (figures := cell(run, kind, regime))]
            if not cells:
                continue
            rule = best_rule(cells)
            means = {name: statistics.fmean(figures[name] for figures in cells) for name in (*models, rule, "n")}
            row = [f"{kind} {regime}", f"{means['n']:.0f}", *(f"{means[name]:.3f}" for name in models)]
            row += [f"{means[rule]:.3f} {rule}", difference(cells, rule), difference(cells, "boosted")]
            print("| " + " | ".join(row) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("projects", type=Path, nargs="+", metavar="PROJECT")
    parser.add_argument("--folder", type=Path, required=True, metavar="RUNS")
    parser.add_argument("--cutoffs", type=float, nargs="+", default=CUTOFFS, metavar="SHARE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="STAGE.NAME=VALUE")
    arguments = parser.parse_args()
    os.environ |= {"PYTHONPATH": os.pathsep.join([str(Path("src").resolve()), os.environ.get("PYTHONPATH", "")])}
    for project in arguments.projects:
        name = "-".join([project.resolve().name, f"seed{arguments.seed}", *arguments.overrides]).replace("/", "-")
        runs = [
            run_at(project, cutoff, arguments.folder / name / f"{cutoff:g}", arguments.seed, arguments.overrides)
            for cutoff in sorted(arguments.cutoffs)
        ]
        print(f"\n### {name}, {len(runs)} cutoffs\n")
        print_table(runs)


if __name__ == "__main__":
    main()
