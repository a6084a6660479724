"""How much figures owe to the moment at which a log is cut: the two-tower model and every rule, at several moments.

    python bench/moments.py PREPARED [--moments 0.3 0.4 ...] [--seeds 1] [--set NAME=VALUE ...] [--json FILE]

PREPARED is the folder that stage `validate` wrote; texts in it are not looked at. At each moment, a share of the log,
the model is trained anew on what lies before, and measured with the rules on the next tenth, by the protocol. All that
is looked at lies before the test part. Prints NDCG@10 by list and regime, mean over seeds: of the model, and of the
rule that is best there. The last row has means over the moments, with the rule whose mean is best: one rule, as
somebody would run it, but chosen in hindsight. What was measured is kept in --json, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from befriend import files
from befriend.config import EvaluateSettings
from befriend.data.attributes import Attributes
from befriend.data.histories import Histories
from befriend.data.log import EventLog
from befriend.data.observed import Observed
from befriend.data.split import Split, read_split, split_by_time
from befriend.evaluation.measure import measure
from befriend.evaluation.protocol import ask
from befriend.evaluation.ranked import ranked
from befriend.evaluation.regimes import REGIMES
from befriend.models.settings import TwoTowerSettings
from befriend.retrieval.heuristics import RULES, Heuristics
from befriend.retrieval.recommender import Recommender
from befriend.settings import parse, split_override
from befriend.training.loop import fit
from befriend.training.two_tower import TwoTowerTrainee

MOMENTS = [0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8]
PART = 0.1  # of the log, behind a moment
WHOLE = {"new": "new", "any": "all"}  # list -> the segment that is all of it
CELLS = [f"{kind}_{regime}" for kind in WHOLE for regime in REGIMES]
MODEL = "two-tower"
Figures = dict[str, dict[str, float]]
"""list and regime -> NDCG@10 by model; of the rules with `n`, how many lists"""


def of_rules(log: EventLog, split: Split, size: int) -> Figures:
    """On the part behind the moment."""
    histories = Histories.of(log)
    asked = {regime: ask(log, split, "validation", size, regime) for regime in REGIMES}
    observed = Observed.of(log)
    recommender = Recommender([], Heuristics(log, observed.activity), observed=observed)
    lists = ranked(recommender, log, histories, asked, RULES, "rules").protocol
    found: Figures = {}
    for regime, questions in asked.items():
        metrics = measure(log, histories, split, questions, lists[regime], {}, EvaluateSettings()).metrics
        for kind, segment in WHOLE.items():
            by_rule = metrics[kind][segment]
            found[f"{kind}_{regime}"] = {name: figures["ndcg@10"] for name, figures in by_rule.items()}
            found[f"{kind}_{regime}"]["n"] = next(iter(by_rule.values()))["n"]  # equal for all
    return found


def of_model(log: EventLog, prepared: Path, split: Split, settings: TwoTowerSettings) -> Figures:
    """Trained on what lies before the moment; the part behind it is what training validates on."""
    observed = Observed.of(log, settings.received_events)
    trainee = TwoTowerTrainee(observed, Attributes.read(prepared), split, settings)
    with tempfile.TemporaryDirectory() as folder:
        fitted = fit(trainee, settings, Path(folder) / "checkpoints", Path(folder) / "curves")
    best_epoch = fitted.history[fitted.best_epoch - 1]
    return {cell: {MODEL: best_epoch[f"validation/{cell}"]} for cell in CELLS}


def best(cells: list[dict[str, float]]) -> tuple[str, float]:
    """The rule with the best mean over some moments, and this mean."""
    means = {name: statistics.fmean(cell[name] for cell in cells) for name in cells[0] if name not in ("n", MODEL)}
    name = max(means, key=means.__getitem__)
    return name, means[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--moments", type=float, nargs="+", default=MOMENTS, metavar="SHARE")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--json", type=Path, default=Path("moments.json"))
    arguments = parser.parse_args()
    prepared: Path = arguments.prepared
    log = EventLog.read(prepared)
    end = read_split(prepared, log).test_start
    base = dict(split_override(item) for item in arguments.overrides)
    every = [parse(TwoTowerSettings, base | {"seed": seed}, "--set") for seed in range(arguments.seeds)]
    size = every[0].validation_events
    found: dict[str, Figures] = files.read_json(arguments.json) if arguments.json.is_file() else {}
    table: dict[float, Figures] = {}
    for moment in sorted(arguments.moments):
        next_tenth = int(log.num_events * (moment + PART))
        if next_tenth >= log.num_events or log.timestamp[next_tenth] > log.timestamp[end]:
            parser.error(f"the tenth behind {moment:g} reaches into the test part: ask for earlier moments")
        split = split_by_time(log.timestamp, moment, moment + PART)
        measured = []
        for settings in (None, *every):
            who = settings.model_dump_json() if settings else f"rules, {size} events"
            key = f"{prepared} {log.lineage()} {moment:g} {who}"
            if key not in found:
                print(f"{moment:g}: {f'seed {settings.seed}' if settings else 'rules'}", flush=True)
                found[key] = of_model(log, prepared, split, settings) if settings else of_rules(log, split, size)
                files.write_json(arguments.json, found)
            measured.append(found[key])
        rules, *models = measured
        table[moment] = {
            cell: rules[cell] | {MODEL: statistics.fmean(model[cell][MODEL] for model in models)} for cell in CELLS
        }
    for cell in CELLS:
        rows = [table[moment][cell] for moment in table]
        rule, mean = best(rows)
        ahead = sum(row[MODEL] > row[rule] for row in rows)
        own = statistics.fmean(row[MODEL] for row in rows)
        print(f"\n### {cell.replace('_', ' ')}\n\n| moment | lists | two-tower | {rule} | best there | which |")
        print("|---:|---:|---:|---:|---:|---|")
        for moment, row in zip(table, rows, strict=True):
            there, value = best([row])
            print(f"| {moment:g} | {row['n']:,.0f} | {row[MODEL]:.3f} | {row[rule]:.3f} | {value:.3f} | {there} |")
        print(f"| mean | | {own:.3f} | {mean:.3f} | | |")
        print(f"\n{own / mean:.2f} x the rule, ahead at {ahead} of {len(rows)} moments")


if __name__ == "__main__":
    main()
