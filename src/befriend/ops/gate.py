"""`befriend gate`: decides whether the current run may replace the run that is served.

A run is a prepared event log with the models that were trained on it and their metrics. The champion is the run that is
served. The challenger is the run that `dvc repro` made last, in the project's folder. The gate lets the challenger
replace the champion only if every check passes:

    check                   passes if
    validation              no critical check of the event log failed
    metrics are current     the metrics were computed from the challenger's own models and log
    serving parity          serving made a sample of the evaluated lists again, exactly
    floor                   the confidence interval of NDCG@10 reaches `gate.floor` times the NDCG@10 of the best
                            heuristic
    never rolled back       this run was not served and rolled back before
    drift                   the new events do not differ more from those of the champion than `gate.drift` allows
    fall                    NDCG@10 is at most the share `gate.fall` below what the champion had when it was promoted
    against the champion    for the same events, NDCG@10 is at most the share `gate.tolerance` below the champion's, or
                            the confidence interval of the difference does not lie wholly below 0, or NDCG@10 is not
                            lower in most windows of time

The last four need a champion. There are two kinds of lists: `new` excludes the user's existing contacts and is scored
on first contacts, `any` includes them and is scored on all events whose target is eligible. A regime says how fresh
the log is when a list is made; its four values are in `befriend.data.regimes`.

The checks `floor` and `fall` are made for each kind of list in each regime of `gate.regimes`, and the check `against
the champion` for each of COMPARED_SLICES in each of these regimes. Where a kind of list was not measured in a regime,
because it has no events for example, the check says so. It fails if the champion was measured there, as there is
nothing then that shows the challenger to be as good. It also fails if no kind of list was measured in any regime. With
fewer than FEW_LISTS lists, the result of a check is marked, since it says little.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from befriend import files, layout
from befriend.analysis.fingerprint import run_fingerprint
from befriend.analysis.metric_tables import FEW_LISTS, LEARNED, LISTS, SERVED_MODEL
from befriend.analysis.paired_comparison import compare_runs
from befriend.config import Params
from befriend.data.regimes import Regime
from befriend.errors import BefriendError, DataError
from befriend.ops.champion_replay import replay_champion
from befriend.ops.drift_check import VERDICTS, describe_verdict, read_or_measure_drift
from befriend.ops.registry import PromotedRun, current_champion, rolled_back_runs, run_digest

# SERVED_MODEL is the ranker `both`; LEARNED has all names in metrics.json that are no heuristics.
DECISION_FILE, REPORT_FILE = "decision.json", "decision.md"
COMPARED_SLICES = (
    ("new", "new", "list new"),
    ("new", "newcomers", "newcomers, list new"),
    ("any", "all", "list any"),
)
"""(kind of list, segment of metrics.json, title) in which champion and challenger are compared. The segments are those
events that count on a list: `new`, all scored events of list `new`, that is first contacts; `newcomers`, those of them
whose actor, the user who gets the list, has no event in the training part of the challenger's log; `all`, all scored
events of list `any`"""


@dataclass(frozen=True)
class GateCheck:
    """The outcome of one check."""

    name: str
    passed: bool
    measured: str
    """what the challenger has, in words"""
    required: str
    """what it needs to pass, in words"""
    lists: int | None = None
    """the number of lists that were measured; None for a check that is not about lists"""

    def to_json(self) -> dict[str, Any]:
        """The check as an element of `checks` in decision.json, with all fields of this class."""
        return asdict(self)


def decide(root: Path, params: Params) -> dict[str, Any]:
    """Checks the current run of the project in `root`. Writes decision.json and decision.md to runs/gate/.

    Returns the content of decision.json. Its keys:
        verdict   promote, refuse, or unchanged if the current run is the champion itself
        run       digest of the current run
        champion  number of the champion in the registry, or None
        checks    the fields of each GateCheck; empty if unchanged
    """
    champion = current_champion(root)
    digest = run_digest(root)
    if champion is not None and champion.manifest["run"] == digest:
        checks, verdict = [], "unchanged"
    else:
        checks = [_check_validation(root), _check_metrics_are_current(root), _check_serving_parity(root)]
        checks += _check_floor(root, params)
        if champion is not None:
            checks += [_check_never_rolled_back(root, digest), _check_drift(root, champion, params)]
            checks += _check_fall(root, champion, params)
            checks += _check_against_champion(root, champion, params)
        verdict = "promote" if all(check.passed for check in checks) else "refuse"
    decision = {
        "verdict": verdict,
        "run": digest,
        "champion": champion.number if champion else None,
        "checks": [check.to_json() for check in checks],
    }
    files.write_json(root / layout.GATE / DECISION_FILE, decision)
    files.write_text(root / layout.GATE / REPORT_FILE, to_markdown(decision))
    return decision


def read_decision(root: Path) -> dict[str, Any]:
    """Reads decision.json. DataError if there is none, or if it is about another run or another champion."""
    path = root / layout.GATE / DECISION_FILE
    decision = files.read_json(path) if path.is_file() else None
    champion = current_champion(root)
    if (
        decision is None
        or "checks" not in decision  # the key was another one in earlier versions
        or decision["run"] != run_digest(root)
        or decision["champion"] != (champion.number if champion else None)
    ):
        raise DataError("the gate has not judged this run against this champion. Run `befriend gate` first.")
    return decision


def failed_checks(decision: dict[str, Any]) -> str:
    """The failed checks of a decision in one line: what was measured, and what is required."""
    failed = (check for check in decision["checks"] if not check["passed"])
    return "; ".join(
        f"{check['name']}: {' '.join(check['measured'].split())}, required {check['required']}" for check in failed
    )


def to_markdown(decision: dict[str, Any]) -> str:
    """The content of decision.json as Markdown."""
    compared = "no champion yet" if decision["champion"] is None else f"compared with champion {decision['champion']}"
    lines = [f"# Gate: {decision['verdict']}", "", f"Run {decision['run'][:12]}, {compared}.", ""]
    if decision["checks"]:
        lines += ["| check | verdict | measured | required |", "|---|---|---|---|"]
        for check in decision["checks"]:
            measured = " ".join(check["measured"].split())
            lines.append(f"| {check['name']} | {_verdict(check)} | {measured} | {check['required']} |")
    if any(check["lists"] is not None and check["lists"] < FEW_LISTS for check in decision["checks"]):
        lines += ["", f"A check with few lists, fewer than {FEW_LISTS}, says little. A longer log has more of them."]
    return "\n".join(lines) + "\n"


def _verdict(check: dict[str, Any]) -> str:
    """The verdict on one check of decision.json, in words."""
    if not check["passed"]:
        return "**not met**"
    if check["lists"] is None or check["lists"] >= FEW_LISTS:
        return "ok"
    return "ok, but few lists" if check["lists"] else "not measured"


def _check_validation(root: Path) -> GateCheck:
    """Whether the event log passed all critical checks of stage validate."""
    validation = files.read_json(root / layout.VALIDATION)
    failed = [
        f"{name} {check['observed']}, allowed {check['limit']} ({check['severity']})"
        for name, check in validation["rules"].items()
        if not check["passed"]
    ]
    measured = "; ".join(failed) or "every check of the event log passed"
    return GateCheck("validation", validation["passed"], measured, "no critical check of the event log failed")


def _check_metrics_are_current(root: Path) -> GateCheck:
    """Whether the metrics were computed from the current models and the current log."""
    # Stage evaluate writes this file: {"of": fingerprint of the log and the models that it measured}.
    path = root / layout.FINGERPRINT
    is_current = path.is_file() and files.read_json(path)["of"] == run_fingerprint(
        root / layout.PREPARED, root / layout.MODELS
    )
    measured = "metrics of this run" if is_current else "metrics of other models or another log: run `make run`"
    return GateCheck("metrics are current", is_current, measured, "metrics of the run that is checked")


def _check_serving_parity(root: Path) -> GateCheck:
    """Whether serving makes the lists that were evaluated. Stage evaluate makes a sample of them in both ways.

    The check fails if metrics.json, of an older version, does not say so.
    """
    # metrics.json has a key for each regime, and `served` for this comparison.
    parity = files.read_json(root / layout.METRICS).get("served")
    measured = f"{parity['differ']:,} of {parity['requests']:,} lists differ" if parity else "no list was compared"
    required = "no served list differs from the evaluated one"
    return GateCheck("serving parity", bool(parity) and not parity["differ"], measured, required)


def _check_floor(root: Path, params: Params) -> list[GateCheck]:
    """Whether NDCG@10 reaches `gate.floor` times that of the best heuristic, or could within its confidence interval.

    One check for each regime and kind of list.
    """
    metrics = files.read_json(root / layout.METRICS)
    kinds = [(regime, list_kind) for regime in params.gate.regimes for list_kind in LISTS]
    is_any_measured = any(SERVED_MODEL in _metrics_by_model(metrics, *kind) for kind in kinds)
    checks = []
    for regime, list_kind in kinds:
        name, metrics_by_model = f"floor, list {list_kind}, {regime}", _metrics_by_model(metrics, regime, list_kind)
        heuristic_ndcg = {name: values["ndcg@10"] for name, values in metrics_by_model.items() if name not in LEARNED}
        if SERVED_MODEL not in metrics_by_model or not heuristic_ndcg:
            required = "at least one kind of list is measured in a regime of gate.regimes"
            checks.append(GateCheck(name, is_any_measured, _why_not_measured(metrics, regime), required, 0))
            continue
        best = max(heuristic_ndcg, key=lambda name: (heuristic_ndcg[name], name))
        ndcg, upper_bound, n = (metrics_by_model[SERVED_MODEL][key] for key in ("ndcg@10", "ndcg@10_high", "n"))
        minimum = params.gate.floor * heuristic_ndcg[best]
        required = f"not clearly below {minimum:.4f}: {params.gate.floor:g} times {best}"
        measured = f"{ndcg:.4f} (interval up to {upper_bound:.4f}), {_count(n)}"
        checks.append(GateCheck(name, upper_bound >= minimum, measured, required, n))
    return checks


def _check_never_rolled_back(root: Path, digest: str) -> GateCheck:
    """Whether the run with this digest was never rolled back.

    Without this check, the next nightly job would promote a run again that you have just rolled back.
    """
    numbers = [run.number for run in rolled_back_runs(root) if run.manifest["run"] == digest]
    measured = f"rolled back as champion {numbers[0]}" if numbers else "never rolled back"
    return GateCheck("never rolled back", not numbers, measured, "a run that was not rolled back")


def _check_drift(root: Path, champion: PromotedRun, params: Params) -> GateCheck:
    """Whether the drift from the champion's events to the new ones is at most the level `gate.drift`.

    The levels are ok, warning and severe.
    """
    drift = read_or_measure_drift(root, champion, params.drift)
    passed = VERDICTS.index(drift["verdict"]) <= VERDICTS.index(params.gate.drift)
    measured = describe_verdict(drift)
    if drift["measures"]:
        measured += f"; {drift['compared']}"
    return GateCheck("drift", passed, measured, f"at most {params.gate.drift}")


def _check_fall(root: Path, champion: PromotedRun, params: Params) -> list[GateCheck]:
    """Whether NDCG@10 is at most the share `gate.fall` below what the champion had when it was promoted.

    The two are measured on different events, so the limit is wide. A larger fall means that the data has changed. One
    check for each regime and kind of list; it passes if the champion was not measured there.
    """
    metrics = files.read_json(root / layout.METRICS)
    checks = []
    for regime in params.gate.regimes:
        for list_kind in LISTS:
            name = f"fall, list {list_kind}, {regime}"
            served = _metrics_by_model(metrics, regime, list_kind).get(SERVED_MODEL)
            champion_ndcg = champion.manifest["ndcg@10"].get(regime, {}).get(list_kind)
            ndcg, n = (served["ndcg@10"], served["n"]) if served else (None, 0)
            measured = _why_not_measured(metrics, regime) if ndcg is None else f"{ndcg:.4f}, {_count(n)}"
            if champion_ndcg is None:
                required = "nothing: the champion was not measured here"
                checks.append(GateCheck(name, True, measured, required, n))
                continue
            minimum = (1 - params.gate.fall) * champion_ndcg
            required = f"at least {minimum:.4f}: no fall by {params.gate.fall:.0%} from {champion_ndcg:.4f}"
            checks.append(GateCheck(name, ndcg is not None and ndcg >= minimum, measured, required, n))
    return checks


def _check_against_champion(root: Path, champion: PromotedRun, params: Params) -> list[GateCheck]:
    """Whether the challenger is not clearly worse than the champion on the challenger's evaluation events.

    The champion's models make lists for these events with the histories of the challenger's log. A check fails if the
    loss of NDCG@10 exceeds the share `gate.tolerance`, the confidence interval of the paired difference lies wholly
    below 0, and there is a loss in most windows of time, of which a longer log has several. One check for each regime
    and slice; it passes if there are no events, as the champion has none either. A single failed check if the
    champion's models cannot make lists for these events.
    """
    challenger_metrics = files.read_json(root / layout.METRICS)
    regimes = [regime for regime in params.gate.regimes if regime in challenger_metrics]
    if not regimes:
        measured = "not measured: evaluate.regimes has none of gate.regimes"
        return [GateCheck("against the champion", False, measured, "lists of both for the same events", 0)]
    settings = params.evaluate.model_copy(update={"regimes": regimes})
    try:
        # The folder has all users of the champion's log, also those erased since, so it is removed at once.
        with tempfile.TemporaryDirectory() as name:
            replay_champion(champion.folder, root / layout.PREPARED, settings, Path(name) / "run")
            metrics = compare_runs(Path(name) / "run", root, SERVED_MODEL).metrics
    except BefriendError as error:
        return [GateCheck("against the champion", False, str(error), "lists of both for the same events")]
    checks = []
    for regime in params.gate.regimes:
        for list_kind, segment, title in COMPARED_SLICES:
            name = f"against the champion, {title}, {regime}"
            row = next(iter(metrics.filter(regime=regime, list=list_kind, segment=segment).iter_rows(named=True)), None)
            if row is None:
                has_events = bool(_metrics_by_model(challenger_metrics, regime, list_kind, segment))
                reason = "not measured: the champion has no lists for these events" if has_events else None
                measured = reason or _why_not_measured(challenger_metrics, regime)
                checks.append(GateCheck(name, not has_events, measured, _no_loss(params.gate.tolerance), 0))
                continue
            checks.append(check_difference(name, row, params.gate.tolerance))
    return checks


def _no_loss(tolerance: float) -> str:
    return f"no clear loss of more than {tolerance:.0%}"


def check_difference(name: str, row: dict[str, Any], tolerance: float) -> GateCheck:
    """Whether the challenger shows no clear loss of more than the share `tolerance` of the champion's NDCG@10.

    row: of `PairedComparison.metrics`, where a is the champion and b the challenger.
    """
    champion_ndcg, difference, low, high = (row[f"ndcg@10 {key}"] for key in ("a", "difference", "low", "high"))
    num_windows, num_losses = len(row["windows"]), sum(change < 0 for change in row["windows"])
    is_clear = high < 0 and 2 * num_losses > num_windows
    measured = (
        f"{row['ndcg@10 b']:.4f} against {champion_ndcg:.4f}: {difference:+.4f} ({low:+.4f} to {high:+.4f}), "
        f"{_count(row['n'])}"
    )
    if num_windows > 1:
        measured += f", lower in {num_losses} of {num_windows} windows of time"
    passed = difference >= -tolerance * champion_ndcg or not is_clear
    return GateCheck(name, passed, measured, _no_loss(tolerance), row["n"])


def _metrics_by_model(
    metrics: dict[str, Any], regime: Regime, list_kind: str, segment: str | None = None
) -> dict[str, dict[str, Any]]:
    """Model -> metrics on a kind of list; empty if it was not measured in the regime.

    segment: of the events; None: all that count on this kind of list.
    """
    return metrics.get(regime, {}).get(list_kind, {}).get(segment or LISTS[list_kind][0], {})


def _why_not_measured(metrics: dict[str, Any], regime: Regime) -> str:
    """Why there are no metrics of a kind of list in a regime, in words."""
    reason = "there was no event to score" if regime in metrics else f"evaluate.regimes has no {regime}"
    return f"not measured: {reason}"


def _count(num_lists: int) -> str:
    """The number of lists in words, which show if there are few."""
    return f"{num_lists:,} lists" if num_lists >= FEW_LISTS else f"only {num_lists:,} lists"
