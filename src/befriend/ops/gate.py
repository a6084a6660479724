"""`befriend gate`: decides, rule by rule, whether the project's current run may replace the champion."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from befriend import files, layout
from befriend.analysis.evaluation_report import LISTS
from befriend.analysis.fingerprint import run_fingerprint
from befriend.analysis.paired_comparison import compare_runs
from befriend.config import Params
from befriend.data.regimes import REGIMES, Regime
from befriend.errors import BefriendError, DataError
from befriend.ops import drift_check as drift
from befriend.ops.champion_replay import MODEL, replay_champion
from befriend.ops.registry import PromotedRun, champion, digest, taken_back
from befriend.report.run_results import LEARNED

DECISION, REPORT = "decision.json", "decision.md"
COMPARED = (("new", "new", "list new"), ("new", "newcomers", "newcomers, list new"), ("any", "all", "list any"))


@dataclass(frozen=True)
class GateRule:
    """The outcome of one rule, as in decision.json."""

    name: str
    passed: bool
    found: str
    required: str


def decide(root: Path, params: Params) -> dict[str, Any]:
    """Judges the current run, writes runs/gate/decision.json and decision.md, and returns the content of the former.

    Its keys: verdict (promote, refuse, or unchanged if the run is the champion itself), run (its digest), champion (the
    number of the run that it was compared with, if any), and rules (name, passed, found and required of each).
    """
    serving = champion(root)
    run = digest(root)
    if serving is not None and serving.manifest["run"] == run:
        rules, verdict = [], "unchanged"
    else:
        rules = [_validation(root), _evaluated(root), _served(root), *_floors(root, params)]
        if serving is not None:
            rules.append(_taken_back(root, run))
            measured = drift.current(root, serving, params.drift)
            limit = drift.SEVERITY.index(params.gate.drift)
            severity = drift.SEVERITY.index(measured["verdict"])
            finding = measured["verdict"] if measured["measures"] else f"{measured['verdict']}: {measured['compared']}"
            rules.append(GateRule("drift", severity <= limit, finding, f"at most {params.gate.drift}"))
            rules += [*_level(root, serving, params), *_against_champion(root, serving, params)]
        verdict = "promote" if all(rule.passed for rule in rules) else "refuse"
    decision = {
        "verdict": verdict,
        "run": run,
        "champion": serving.number if serving else None,
        "rules": [asdict(rule) for rule in rules],
    }
    files.write_json(root / layout.GATE / DECISION, decision)
    files.write_text(root / layout.GATE / REPORT, report(decision))
    return decision


def read(root: Path) -> dict[str, Any]:
    """Reads the decision about the current run; DataError if there is none, or one about another run or champion."""
    path = root / layout.GATE / DECISION
    decision = files.read_json(path) if path.is_file() else None
    serving = champion(root)
    if (
        decision is None
        or decision["run"] != digest(root)
        or decision["champion"] != (serving.number if serving else None)
    ):
        raise DataError("the gate has not judged this run against this champion. Run `befriend gate` first.")
    return decision


def report(decision: dict[str, Any]) -> str:
    """The decision as Markdown."""
    compared = "no champion yet" if decision["champion"] is None else f"compared with champion {decision['champion']}"
    lines = [f"# Gate: {decision['verdict']}", "", f"Run {decision['run'][:12]}, {compared}.", ""]
    if decision["rules"]:
        lines += ["| rule | verdict | found | required |", "|---|---|---|---|"]
        for rule in decision["rules"]:
            verdict = "ok" if rule["passed"] else "**not met**"
            finding = " ".join(rule["found"].split())
            lines.append(f"| {rule['name']} | {verdict} | {finding} | {rule['required']} |")
    return "\n".join(lines) + "\n"


def _validation(root: Path) -> GateRule:
    validation = files.read_json(root / layout.VALIDATION)
    failed = [name for name, rule in validation["rules"].items() if not rule["passed"]]
    return GateRule(
        "validation", validation["passed"], ", ".join(failed) or "every rule met", "no critical rule failed"
    )


def _evaluated(root: Path) -> GateRule:
    """Whether metrics and lists were made by the current models, from the current log."""
    path = root / layout.FINGERPRINT
    is_same = path.is_file() and files.read_json(path)["of"] == run_fingerprint(
        root / layout.PREPARED, root / layout.MODELS
    )
    finding = "of this run" if is_same else "of other models, or of another log: run `dvc repro`"
    return GateRule("figures", is_same, finding, "those of the run that is judged")


def _served(root: Path) -> GateRule:
    """Whether users are served the same lists that were measured."""
    served = files.read_json(root / layout.METRICS).get("served")
    finding = f"{served['differ']:,} of {served['requests']:,} differ" if served else "no list was checked"
    required = "no list that is served differs from the measured one"
    return GateRule("served as measured", bool(served) and not served["differ"], finding, required)


def _taken_back(root: Path, run: str) -> GateRule:
    """Whether the run was never rolled back: otherwise the next nightly job would promote it again."""
    numbers = [entry.number for entry in taken_back(root) if entry.manifest["run"] == run]
    finding = f"rolled back as champion {numbers[0]}" if numbers else "never rolled back"
    return GateRule("not taken back", not numbers, finding, "no run that was rolled back")


def _regimes(metrics: dict[str, Any], params: Params) -> list[Regime]:
    """The regimes of the gate's settings that evaluation measured, at least one."""
    regimes = [regime for regime in params.gate.regimes if regime in metrics]
    if not regimes:
        measured = ", ".join(regime for regime in REGIMES if regime in metrics)
        raise DataError(f"gate.regimes is {', '.join(params.gate.regimes)}, but evaluate measured only {measured}.")
    return regimes


def _ndcg(metrics: dict[str, Any], regime: str, kind: str, model: str) -> float | None:
    """NDCG@10 of a model on a kind of list, over all its events; None if it was not measured."""
    cell = metrics[regime].get(kind, {}).get(LISTS[kind][0], {})
    return cell[model]["ndcg@10"] if model in cell else None


def _floors(root: Path, params: Params) -> list[GateRule]:
    """Whether lists are at least about as good as those of the best plain rule."""
    metrics = files.read_json(root / layout.METRICS)
    rules = []
    for regime in _regimes(metrics, params):
        for kind, (segment, _) in LISTS.items():
            cell = metrics[regime].get(kind, {}).get(segment, {})
            plain = {name: figures["ndcg@10"] for name, figures in cell.items() if name not in LEARNED}
            if MODEL not in cell or not plain:
                continue
            best = max(plain, key=lambda name: (plain[name], name))
            ndcg, high = (cell[MODEL][name] for name in ("ndcg@10", "ndcg@10_high"))
            least = params.gate.floor * plain[best]
            required = f"not clearly below {least:.4f}: {params.gate.floor:g} times {best}"
            rules.append(
                GateRule(f"floor, list {kind}, {regime}", high >= least, f"{ndcg:.4f} (to {high:.4f})", required)
            )
    return rules


def _level(root: Path, serving: PromotedRun, params: Params) -> list[GateRule]:
    """Whether users are about as predictable as when the champion was promoted: if not, the data has changed."""
    metrics = files.read_json(root / layout.METRICS)
    rules = []
    for regime in _regimes(metrics, params):
        for kind in LISTS:
            ndcg, champion_ndcg = (
                _ndcg(metrics, regime, kind, MODEL),
                serving.manifest["ndcg@10"].get(regime, {}).get(kind),
            )
            if ndcg is None or champion_ndcg is None:
                continue
            least = (1 - params.gate.fall) * champion_ndcg
            required = f"at least {least:.4f}: no fall by {params.gate.fall:.0%} from {champion_ndcg:.4f}"
            rules.append(GateRule(f"level, list {kind}, {regime}", ndcg >= least, f"{ndcg:.4f}", required))
    return rules


def _against_champion(root: Path, serving: PromotedRun, params: Params) -> list[GateRule]:
    """Whether the challenger is not clearly worse than the champion on the same newest events."""
    regimes = _regimes(files.read_json(root / layout.METRICS), params)
    settings = params.evaluate.model_copy(update={"regimes": regimes})
    try:
        # the folder holds all users of the champion's log, erased ones too, so it is removed at once
        with tempfile.TemporaryDirectory() as name:
            replay_champion(serving.folder, root / layout.PREPARED, settings, Path(name) / "run")
            figures = compare_runs(Path(name) / "run", root, MODEL).figures
    except BefriendError as error:
        return [GateRule("against the champion", False, str(error), "both make lists for the same events")]
    rules = []
    for regime in regimes:
        for kind, segment, title in COMPARED:
            row = next(iter(figures.filter(regime=regime, list=kind, segment=segment).iter_rows(named=True)), None)
            if row is None:
                continue
            champion_ndcg, difference = row["ndcg@10 a"], row["ndcg@10 difference"]
            low, high = row["ndcg@10 low"], row["ndcg@10 high"]
            passed = difference >= -params.gate.tolerance * champion_ndcg or high >= 0
            finding = (
                f"{row['ndcg@10 b']:.4f} against {champion_ndcg:.4f}: {difference:+.4f} ({low:+.4f} to {high:+.4f}), "
                f"{row['n']:,} lists"
            )
            required = f"no clear loss of more than {params.gate.tolerance:.0%}"
            rules.append(GateRule(f"{title}, {regime}", passed, finding, required))
    return rules
