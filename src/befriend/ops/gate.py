"""`befriend gate`: whether the run that lies here may take the champion's place, rule by rule."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from befriend import files, layout
from befriend.config import Params
from befriend.errors import BefriendError, DataError
from befriend.evaluation.again import MODEL, rank_again
from befriend.evaluation.compare import compare
from befriend.evaluation.evaluated import evaluated
from befriend.evaluation.regimes import REGIMES, Regime
from befriend.evaluation.report import LISTS
from befriend.ops import drift
from befriend.ops.registry import Promoted, champion, digest, taken_back
from befriend.report.run import LEARNED

DECISION, REPORT = "decision.json", "decision.md"
COMPARED = (("new", "new", "list new"), ("new", "newcomers", "newcomers, list new"), ("any", "all", "list any"))


@dataclass(frozen=True)
class Rule:
    name: str
    passed: bool
    found: str
    required: str


def decide(root: Path, params: Params) -> dict[str, Any]:
    """Judges, writes runs/gate/decision.json and decision.md, and returns the decision.

    verdict: promote, refuse, or unchanged, where the run is the champion's; run: its digest; champion: the number of
    the run beside which it was judged, if any; rules: name, passed, found and required.
    """
    now = champion(root)
    run = digest(root)
    if now is not None and now.manifest["run"] == run:
        rules, verdict = [], "unchanged"
    else:
        rules = [_validation(root), _evaluated(root), _served(root), *_floors(root, params)]
        if now is not None:
            rules.append(_taken_back(root, run))
            told = drift.current(root, now, params.drift)
            limit = drift.SEVERITY.index(params.gate.drift)
            severity = drift.SEVERITY.index(told["verdict"])
            found = told["verdict"] if told["measures"] else f"{told['verdict']}: {told['compared']}"
            rules.append(Rule("drift", severity <= limit, found, f"at most {params.gate.drift}"))
            rules += [*_level(root, now, params), *_beside(root, now, params)]
        verdict = "promote" if all(rule.passed for rule in rules) else "refuse"
    decision = {
        "verdict": verdict,
        "run": run,
        "champion": now.number if now else None,
        "rules": [asdict(rule) for rule in rules],
    }
    files.write_json(root / layout.GATE / DECISION, decision)
    files.write_text(root / layout.GATE / REPORT, report(decision))
    return decision


def read(root: Path) -> dict[str, Any]:
    """The decision about the run that lies here; DataError where there is none, or one about another run."""
    path = root / layout.GATE / DECISION
    decision = files.read_json(path) if path.is_file() else None
    now = champion(root)
    if decision is None or decision["run"] != digest(root) or decision["champion"] != (now.number if now else None):
        raise DataError("the gate has not seen this run beside this champion. Run `befriend gate` first.")
    return decision


def report(decision: dict[str, Any]) -> str:
    """The decision, to be read."""
    beside = "no champion yet" if decision["champion"] is None else f"beside champion {decision['champion']}"
    lines = [f"# Gate: {decision['verdict']}", "", f"Run {decision['run'][:12]}, {beside}.", ""]
    if decision["rules"]:
        lines += ["| rule | verdict | found | required |", "|---|---|---|---|"]
        for rule in decision["rules"]:
            verdict = "ok" if rule["passed"] else "**not met**"
            found = " ".join(rule["found"].split())
            lines.append(f"| {rule['name']} | {verdict} | {found} | {rule['required']} |")
    return "\n".join(lines) + "\n"


def _validation(root: Path) -> Rule:
    told = files.read_json(root / layout.VALIDATION)
    failed = [name for name, rule in told["rules"].items() if not rule["passed"]]
    return Rule("validation", told["passed"], ", ".join(failed) or "every rule met", "no critical rule failed")


def _evaluated(root: Path) -> Rule:
    """Whether figures and lists are those of the models that lie here."""
    path = root / layout.EVALUATED
    same = path.is_file() and files.read_json(path)["of"] == evaluated(root / layout.PREPARED, root / layout.MODELS)
    found = "of this run" if same else "of other models, or of another log: run `dvc repro`"
    return Rule("figures", same, found, "those of the run that is judged")


def _served(root: Path) -> Rule:
    """Whether people get the lists that were measured."""
    told = files.read_json(root / layout.METRICS).get("served")
    found = f"{told['differ']:,} of {told['requests']:,} differ" if told else "none was looked at"
    required = "no list that is served differs from the measured one"
    return Rule("served as measured", bool(told) and not told["differ"], found, required)


def _taken_back(root: Path, run: str) -> Rule:
    """What somebody took back does not return by itself the next night."""
    numbers = [entry.number for entry in taken_back(root) if entry.manifest["run"] == run]
    found = f"somebody went back from it, as champion {numbers[0]}" if numbers else "never served and taken back"
    return Rule("not taken back", not numbers, found, "no run that a rollback took back")


def _regimes(metrics: dict[str, Any], params: Params) -> list[Regime]:
    found = [regime for regime in params.gate.regimes if regime in metrics]
    if not found:
        known = ", ".join(regime for regime in REGIMES if regime in metrics)
        raise DataError(f"gate.regimes asks for {', '.join(params.gate.regimes)}, but evaluate has {known} only.")
    return found


def _figure(metrics: dict[str, Any], regime: str, kind: str, model: str) -> float | None:
    cell = metrics[regime].get(kind, {}).get(LISTS[kind][0], {})
    return cell[model]["ndcg@10"] if model in cell else None


def _floors(root: Path, params: Params) -> list[Rule]:
    """Whether lists are about as good as the best of the plain rules, at least."""
    metrics = files.read_json(root / layout.METRICS)
    rules = []
    for regime in _regimes(metrics, params):
        for kind, (segment, _) in LISTS.items():
            cell = metrics[regime].get(kind, {}).get(segment, {})
            plain = {name: figures["ndcg@10"] for name, figures in cell.items() if name not in LEARNED}
            if MODEL not in cell or not plain:
                continue
            best = max(plain, key=lambda name: (plain[name], name))
            found, high = (cell[MODEL][name] for name in ("ndcg@10", "ndcg@10_high"))
            least = params.gate.floor * plain[best]
            said = f"not clearly below {least:.4f}: {params.gate.floor:g} times {best}"
            rules.append(Rule(f"floor, list {kind}, {regime}", high >= least, f"{found:.4f} (to {high:.4f})", said))
    return rules


def _level(root: Path, now: Promoted, params: Params) -> list[Rule]:
    """Whether people are about as predictable as when the champion was promoted: else the data is not what it was."""
    metrics = files.read_json(root / layout.METRICS)
    rules = []
    for regime in _regimes(metrics, params):
        for kind in LISTS:
            found, then = _figure(metrics, regime, kind, MODEL), now.manifest["ndcg@10"].get(regime, {}).get(kind)
            if found is None or then is None:
                continue
            least = (1 - params.gate.fall) * then
            said = f"at least {least:.4f}: no fall by {params.gate.fall:.0%} from {then:.4f}"
            rules.append(Rule(f"level, list {kind}, {regime}", found >= least, f"{found:.4f}", said))
    return rules


def _beside(root: Path, now: Promoted, params: Params) -> list[Rule]:
    """Challenger and champion on the same newest events."""
    regimes = _regimes(files.read_json(root / layout.METRICS), params)
    settings = params.evaluate.model_copy(update={"regimes": regimes})
    try:
        with tempfile.TemporaryDirectory() as name:  # it holds everybody whom the champion knows: nothing to be kept
            rank_again(now.folder, root / layout.PREPARED, settings, Path(name) / "run")
            figures = compare(Path(name) / "run", root, MODEL).figures
    except BefriendError as error:
        return [Rule("beside the champion", False, str(error), "both make lists for the same events")]
    rules = []
    for regime in regimes:
        for kind, segment, title in COMPARED:
            row = next(iter(figures.filter(regime=regime, list=kind, segment=segment).iter_rows(named=True)), None)
            if row is None:
                continue
            then, lost = row["ndcg@10 a"], row["ndcg@10 difference"]
            low, high = row["ndcg@10 low"], row["ndcg@10 high"]
            passed = lost >= -params.gate.tolerance * then or high >= 0
            found = (
                f"{row['ndcg@10 b']:.4f} beside {then:.4f}: {lost:+.4f} ({low:+.4f} to {high:+.4f}), {row['n']:,} lists"
            )
            wanted = f"no clear loss of more than {params.gate.tolerance:.0%}"
            rules.append(Rule(f"{title}, {regime}", passed, found, wanted))
    return rules
