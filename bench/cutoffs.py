"""Backtest over several cutoffs: how much results depend on where a log is split into training and evaluation.

    python bench/cutoffs.py PREPARED [--cutoffs 0.3 0.4 ...] [--seeds 1] [--set NAME=VALUE ...] [--json FILE]

PREPARED is the folder that stage `validate` wrote; its texts are not used. --cutoffs are the cutoffs, as shares of the
log. At each cutoff the two-tower model is trained on all earlier events, and measured together with the rules
(heuristics, rankings without learned parameters) on the next tenth of the log, by the evaluation protocol. No event of
the test part is used. Results are saved in --json, so that an interrupted run continues.

Prints a Markdown table for each list and regime, a row for each cutoff: NDCG@10 of the model (mean over seeds), of the
rule whose mean over the cutoffs is best, and of the best rule at that cutoff. The last row has the means. The rule with
the best mean is a single rule, as an operator would run it, but chosen in hindsight.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from befriend import files
from befriend.analysis.evaluate_settings import EvaluateSettings
from befriend.analysis.measure import compute_metrics
from befriend.data.attributes import Attributes
from befriend.data.event_log import EventLog
from befriend.data.regimes import REGIMES
from befriend.data.split import Split, read_split, split_by_time
from befriend.evaluation.model_validation import two_tower_validation
from befriend.evaluation.protocol import make_eval_queries
from befriend.evaluation.run_rankers import run_rankers
from befriend.features.feature_view import FeatureView
from befriend.features.histories import Histories
from befriend.objectives.objective_settings import TwoTowerSettings
from befriend.objectives.two_tower_objective import TwoTowerObjective
from befriend.retrieval.heuristics import HEURISTICS, Heuristics
from befriend.retrieval.recommender import Recommender
from befriend.settings import parse, split_override
from befriend.training.loop import fit

CUTOFFS = [0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8]
EVALUATED_SHARE = 0.1  # of the log, after a cutoff
WHOLE_SEGMENT = {"new": "new", "any": "all"}  # list -> the segment with all of its events
CELLS = [f"{kind}_{regime}" for kind in WHOLE_SEGMENT for regime in REGIMES]
MODEL = "two-tower"
CellFigures = dict[str, dict[str, float]]
"""list and regime -> model -> NDCG@10; of the rules also `n`, the number of lists"""


def rule_figures(log: EventLog, split: Split, size: int) -> CellFigures:
    """NDCG@10 of all rules on the part after the cutoff."""
    histories = Histories.of(log)
    queries = {regime: make_eval_queries(log, split, "validation", size, regime) for regime in REGIMES}
    feature_view = FeatureView.of(log)
    recommender = Recommender([], Heuristics(feature_view), feature_view=feature_view)
    lists = run_rankers(recommender, log, histories, queries, HEURISTICS, "rules").protocol
    figures_by_cell: CellFigures = {}
    for regime, q in queries.items():
        metrics = compute_metrics(log, histories, split, q, lists[regime], {}, EvaluateSettings()).metrics
        for kind, segment in WHOLE_SEGMENT.items():
            by_rule = metrics[kind][segment]
            figures_by_cell[f"{kind}_{regime}"] = {
                name: rule_metrics["ndcg@10"] for name, rule_metrics in by_rule.items()
            }
            figures_by_cell[f"{kind}_{regime}"]["n"] = next(iter(by_rule.values()))["n"]  # equal for all
    return figures_by_cell


def model_figures(log: EventLog, prepared: Path, split: Split, settings: TwoTowerSettings) -> CellFigures:
    """NDCG@10 of the model, trained on the part before the cutoff; training validates on the part after it."""
    feature_view = FeatureView.of(log, settings.received_events)
    validate = two_tower_validation(feature_view, split, settings)
    objective = TwoTowerObjective(feature_view, Attributes.read(prepared), split, settings, validate)
    with tempfile.TemporaryDirectory() as folder:
        fitted = fit(objective, settings, Path(folder) / "checkpoints", Path(folder) / "curves")
    best_epoch = fitted.history[fitted.best_epoch - 1]
    return {cell: {MODEL: best_epoch[f"validation/{cell}"]} for cell in CELLS}


def best_rule(cells: list[dict[str, float]]) -> tuple[str, float]:
    """The rule with the best mean over some cutoffs, and that mean."""
    means = {name: statistics.fmean(cell[name] for cell in cells) for name in cells[0] if name not in ("n", MODEL)}
    name = max(means, key=means.__getitem__)
    return name, means[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--cutoffs", type=float, nargs="+", default=CUTOFFS, metavar="SHARE")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--json", type=Path, default=Path("cutoffs.json"))
    arguments = parser.parse_args()
    prepared: Path = arguments.prepared
    log = EventLog.read(prepared)
    end = read_split(prepared, log).test_start
    base = dict(split_override(item) for item in arguments.overrides)
    settings_by_seed = [parse(TwoTowerSettings, base | {"seed": seed}, "--set") for seed in range(arguments.seeds)]
    size = settings_by_seed[0].validation_events
    results: dict[str, CellFigures] = files.read_json(arguments.json) if arguments.json.is_file() else {}
    table: dict[float, CellFigures] = {}
    for cutoff in sorted(arguments.cutoffs):
        evaluation_end = int(log.num_events * (cutoff + EVALUATED_SHARE))
        if evaluation_end >= log.num_events or log.timestamp[evaluation_end] > log.timestamp[end]:
            parser.error(f"the tenth after {cutoff:g} reaches into the test part. Give earlier cutoffs.")
        split = split_by_time(log.timestamp, cutoff, cutoff + EVALUATED_SHARE)
        figures = []
        for settings in (None, *settings_by_seed):
            ranker = settings.model_dump_json() if settings else f"rules, {size} events"
            key = f"{prepared} {log.lineage()} {cutoff:g} {ranker}"
            if key not in results:
                print(f"{cutoff:g}: {f'seed {settings.seed}' if settings else 'rules'}", flush=True)
                results[key] = (
                    model_figures(log, prepared, split, settings) if settings else rule_figures(log, split, size)
                )
                files.write_json(arguments.json, results)
            figures.append(results[key])
        rules, *models = figures
        table[cutoff] = {
            cell: rules[cell] | {MODEL: statistics.fmean(model[cell][MODEL] for model in models)} for cell in CELLS
        }
    for cell in CELLS:
        rows = [table[cutoff][cell] for cutoff in table]
        rule, rule_mean = best_rule(rows)
        num_ahead = sum(row[MODEL] > row[rule] for row in rows)
        model_mean = statistics.fmean(row[MODEL] for row in rows)
        print(f"\n### {cell.replace('_', ' ')}\n\n| cutoff | lists | two-tower | {rule} | best rule there | its name |")
        print("|---:|---:|---:|---:|---:|---|")
        for cutoff, row in zip(table, rows, strict=True):
            best, value = best_rule([row])
            print(f"| {cutoff:g} | {row['n']:,.0f} | {row[MODEL]:.3f} | {row[rule]:.3f} | {value:.3f} | {best} |")
        print(f"| mean | | {model_mean:.3f} | {rule_mean:.3f} | | |")
        print(f"\n{model_mean / rule_mean:.2f} x the rule, ahead at {num_ahead} of {len(rows)} cutoffs")


if __name__ == "__main__":
    main()
