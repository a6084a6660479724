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
                            the confidence interval of the difference does not lie wholly below 0

The last four need a champion. There are two kinds of lists: `new` excludes the user's existing contacts and is scored
on first contacts, `any` includes them and is scored on all events whose target is eligible. A regime says how fresh
the log is when a list is made; its four values are in `befriend.data.regimes`.

The checks `floor` and `fall` are made for each kind of list in each regime of `gate.regimes`, and the check `against
the champion` for each of COMPARED_SLICES in each of these regimes. A combination without metrics, because it has no
events for example, is skipped: it has no check, and does not keep the challenger from being promoted.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from befriend import files, layout
from befriend.analysis.evaluation_report import LISTS
from befriend.analysis.fingerprint import run_fingerprint
from befriend.analysis.paired_comparison import compare_runs
from befriend.config import Params
from befriend.data.regimes import REGIMES, Regime
from befriend.errors import BefriendError, DataError
from befriend.ops.champion_replay import SERVED_MODEL, replay_champion
from befriend.ops.drift_check import VERDICTS, read_or_measure_drift
from befriend.ops.registry import PromotedRun, current_champion, rolled_back_runs, run_digest
from befriend.report.run_results import LEARNED

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
    """The outcome of one check. In decision.json, a check is an element of `rules`."""

    name: str
    passed: bool
    observed: str
    """what the challenger has, in words; called `found` in decision.json"""
    required: str
    """what it needs to pass, in words"""

    def to_json(self) -> dict[str, Any]:
        """The check as an element of `rules` in decision.json."""
        return {"name": self.name, "passed": self.passed, "found": self.observed, "required": self.required}


def decide(root: Path, params: Params) -> dict[str, Any]:
    """Checks the current run of the project in `root`. Writes decision.json and decision.md to runs/gate/.

    Returns the content of decision.json. Its keys:
        verdict   promote, refuse, or unchanged if the current run is the champion itself
        run       digest of the current run
        champion  number of the champion in the registry, or None
        rules     the checks, each with name, passed, found and required; empty if unchanged
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
        "rules": [check.to_json() for check in checks],
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
        or decision["run"] != run_digest(root)
        or decision["champion"] != (champion.number if champion else None)
    ):
        raise DataError("the gate has not judged this run against this champion. Run `befriend gate` first.")
    return decision


def to_markdown(decision: dict[str, Any]) -> str:
    """The content of decision.json as Markdown."""
    compared = "no champion yet" if decision["champion"] is None else f"compared with champion {decision['champion']}"
    lines = [f"# Gate: {decision['verdict']}", "", f"Run {decision['run'][:12]}, {compared}.", ""]
    if decision["rules"]:
        lines += ["| check | verdict | observed | required |", "|---|---|---|---|"]
        for check in decision["rules"]:
            verdict = "ok" if check["passed"] else "**not met**"
            observed = " ".join(check["found"].split())
            lines.append(f"| {check['name']} | {verdict} | {observed} | {check['required']} |")
    return "\n".join(lines) + "\n"


def _check_validation(root: Path) -> GateCheck:
    """Whether the event log passed all critical checks of stage validate."""
    validation = files.read_json(root / layout.VALIDATION)
    failed = [name for name, rule in validation["rules"].items() if not rule["passed"]]
    return GateCheck(
        "validation", validation["passed"], ", ".join(failed) or "every rule met", "no critical rule failed"
    )


def _check_metrics_are_current(root: Path) -> GateCheck:
    """Whether the metrics were computed from the current models and the current log."""
    # Stage evaluate writes this file: {"of": fingerprint of the log and the models that it measured}.
    path = root / layout.FINGERPRINT
    is_current = path.is_file() and files.read_json(path)["of"] == run_fingerprint(
        root / layout.PREPARED, root / layout.MODELS
    )
    observed = "metrics of this run" if is_current else "metrics of other models or another log: run `dvc repro`"
    return GateCheck("metrics are current", is_current, observed, "metrics of the run that is checked")


def _check_serving_parity(root: Path) -> GateCheck:
    """Whether serving makes the lists that were evaluated. Stage evaluate makes a sample of them in both ways.

    The check fails if metrics.json, of an older version, does not say so.
    """
    # metrics.json has a key for each regime, and `served` for this comparison.
    parity = files.read_json(root / layout.METRICS).get("served")
    observed = f"{parity['differ']:,} of {parity['requests']:,} lists differ" if parity else "no list was compared"
    required = "no served list differs from the evaluated one"
    return GateCheck("serving parity", bool(parity) and not parity["differ"], observed, required)


def _check_floor(root: Path, params: Params) -> list[GateCheck]:
    """Whether NDCG@10 reaches `gate.floor` times that of the best heuristic, or could within its confidence interval.

    One check for each regime and kind of list that has metrics of the served ranker and of a heuristic.
    """
    metrics = files.read_json(root / layout.METRICS)
    checks = []
    for regime in _regimes(metrics, params):
        for list_kind, (segment, _) in LISTS.items():
            metrics_by_model = metrics[regime].get(list_kind, {}).get(segment, {})
            heuristic_ndcg = {
                name: values["ndcg@10"] for name, values in metrics_by_model.items() if name not in LEARNED
            }
            if SERVED_MODEL not in metrics_by_model or not heuristic_ndcg:
                continue
            best = max(heuristic_ndcg, key=lambda name: (heuristic_ndcg[name], name))
            ndcg, upper_bound = (metrics_by_model[SERVED_MODEL][name] for name in ("ndcg@10", "ndcg@10_high"))
            minimum = params.gate.floor * heuristic_ndcg[best]
            required = f"not clearly below {minimum:.4f}: {params.gate.floor:g} times {best}"
            observed = f"{ndcg:.4f} (interval up to {upper_bound:.4f})"
            checks.append(GateCheck(f"floor, list {list_kind}, {regime}", upper_bound >= minimum, observed, required))
    return checks


def _check_never_rolled_back(root: Path, digest: str) -> GateCheck:
    """Whether the run with this digest was never rolled back.

    Without this check, the next nightly job would promote a run again that you have just rolled back.
    """
    numbers = [run.number for run in rolled_back_runs(root) if run.manifest["run"] == digest]
    observed = f"rolled back as champion {numbers[0]}" if numbers else "never rolled back"
    return GateCheck("never rolled back", not numbers, observed, "a run that was not rolled back")


def _check_drift(root: Path, champion: PromotedRun, params: Params) -> GateCheck:
    """Whether the drift from the champion's events to the new ones is at most the level `gate.drift`.

    The levels are ok, warning and severe.
    """
    drift = read_or_measure_drift(root, champion, params.drift)
    passed = VERDICTS.index(drift["verdict"]) <= VERDICTS.index(params.gate.drift)
    # without measures, `compared` says why the logs could not be compared
    observed = drift["verdict"] if drift["measures"] else f"{drift['verdict']}: {drift['compared']}"
    return GateCheck("drift", passed, observed, f"at most {params.gate.drift}")


def _check_fall(root: Path, champion: PromotedRun, params: Params) -> list[GateCheck]:
    """Whether NDCG@10 is at most the share `gate.fall` below what the champion had when it was promoted.

    The two are measured on different events, so the limit is wide. A larger fall means that the data has changed. One
    check for each regime and kind of list for which both have the metric.
    """
    metrics = files.read_json(root / layout.METRICS)
    checks = []
    for regime in _regimes(metrics, params):
        for list_kind in LISTS:
            ndcg = _ndcg(metrics, regime, list_kind)
            champion_ndcg = champion.manifest["ndcg@10"].get(regime, {}).get(list_kind)
            if ndcg is None or champion_ndcg is None:
                continue
            minimum = (1 - params.gate.fall) * champion_ndcg
            required = f"at least {minimum:.4f}: no fall by {params.gate.fall:.0%} from {champion_ndcg:.4f}"
            checks.append(GateCheck(f"fall, list {list_kind}, {regime}", ndcg >= minimum, f"{ndcg:.4f}", required))
    return checks


def _check_against_champion(root: Path, champion: PromotedRun, params: Params) -> list[GateCheck]:
    """Whether the challenger is not clearly worse than the champion on the challenger's evaluation events.

    The champion's models make lists for these events with the histories of the challenger's log. A check fails if the
    loss of NDCG@10 exceeds the share `gate.tolerance` and the confidence interval of the paired difference lies wholly
    below 0. One check for each regime and slice that has events; a single failed one if the champion's models cannot
    make lists for these events.
    """
    regimes = _regimes(files.read_json(root / layout.METRICS), params)
    settings = params.evaluate.model_copy(update={"regimes": regimes})
    try:
        # The folder has all users of the champion's log, also those erased since, so it is removed at once.
        with tempfile.TemporaryDirectory() as name:
            replay_champion(champion.folder, root / layout.PREPARED, settings, Path(name) / "run")
            metrics = compare_runs(Path(name) / "run", root, SERVED_MODEL).metrics
    except BefriendError as error:
        return [GateCheck("against the champion", False, str(error), "lists of both for the same events")]
    checks = []
    for regime in regimes:
        for list_kind, segment, title in COMPARED_SLICES:
            row = next(iter(metrics.filter(regime=regime, list=list_kind, segment=segment).iter_rows(named=True)), None)
            if row is None:
                continue
            # In the table, a is the champion and b the challenger.
            champion_ndcg, difference = row["ndcg@10 a"], row["ndcg@10 difference"]
            low, high = row["ndcg@10 low"], row["ndcg@10 high"]
            passed = difference >= -params.gate.tolerance * champion_ndcg or high >= 0
            observed = (
                f"{row['ndcg@10 b']:.4f} against {champion_ndcg:.4f}: {difference:+.4f} ({low:+.4f} to {high:+.4f}), "
                f"{row['n']:,} lists"
            )
            required = f"no clear loss of more than {params.gate.tolerance:.0%}"
            checks.append(GateCheck(f"against the champion, {title}, {regime}", passed, observed, required))
    return checks


def _regimes(metrics: dict[str, Any], params: Params) -> list[Regime]:
    """The regimes of setting `gate.regimes` that stage evaluate measured. DataError if it measured none of them."""
    regimes = [regime for regime in params.gate.regimes if regime in metrics]
    if not regimes:
        measured = ", ".join(regime for regime in REGIMES if regime in metrics)
        raise DataError(f"gate.regimes is {', '.join(params.gate.regimes)}, but evaluate measured only {measured}.")
    return regimes


def _ndcg(metrics: dict[str, Any], regime: str, list_kind: str) -> float | None:
    """NDCG@10 of the served ranker on a kind of list; None if it was not measured."""
    segment, _ = LISTS[list_kind]  # all events that count on this kind of list
    metrics_by_model = metrics[regime].get(list_kind, {}).get(segment, {})
    return metrics_by_model[SERVED_MODEL]["ndcg@10"] if SERVED_MODEL in metrics_by_model else None
