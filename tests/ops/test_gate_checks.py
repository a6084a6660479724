"""What the gate says about checks: measure and figure, the number of lists, and lists that were not measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from befriend import files, layout
from befriend.config import Params
from befriend.errors import DataError
from befriend.monitoring.monitoring_settings import DriftSettings, GateSettings
from befriend.ops import gate
from befriend.ops.drift_check import describe_verdict
from befriend.ops.registry import promote
from tests.conftest import call
from tests.ops.test_registry import write_run

RULE = {"severity": "critical", "limit": "at most 0.01"}
Cells = dict[tuple[str, str], int]
"""(regime, kind of list) -> number of lists"""
ALL: Cells = {(regime, kind): 300 for regime in ("streaming", "daily") for kind in ("new", "any")}


def cell(n: int, ndcg: float) -> dict[str, Any]:
    return {"n": n, "ndcg@10": ndcg, "hit@10": 1, "mrr@100": 0.5, "ndcg@10_low": ndcg - 0.1, "ndcg@10_high": ndcg + 0.1}


def write_measured_run(root: Path, content: str, cells: Cells, ndcg: float = 0.5) -> None:
    """A run whose lists of the given kinds have this NDCG@10, and whose tables and weights are `content`."""
    write_run(root, content)
    metrics: dict[str, Any] = {"served": {"requests": 60, "differ": 0}} | {regime: {} for regime, _ in cells}
    for (regime, kind), n in cells.items():
        models = {"both": cell(n, ndcg), "popularity": cell(n, 0.1)}
        metrics[regime][kind] = {"new" if kind == "new" else "all": models}
    files.write_json(root / layout.METRICS, metrics)
    checks = {"rejected_share": RULE | {"passed": True, "observed": 0.0}}
    summary = files.read_json(root / layout.VALIDATION)
    files.write_json(root / layout.VALIDATION, summary | {"passed": True, "rules": checks})


def decided_checks(root: Path, **settings: Any) -> dict[str, dict[str, Any]]:
    """Name -> check, of the decision on the current run."""
    decision = gate.decide(root, Params(gate=GateSettings(**settings)))
    return {check["name"]: check for check in decision["checks"]}


def test_check_says_how_many_lists_it_was_decided_on(tmp_path: Path) -> None:
    write_measured_run(tmp_path, "one", ALL | {("daily", "new"): 7})
    checks = decided_checks(tmp_path)
    many, few = (checks[f"floor, list new, {regime}"] for regime in ("streaming", "daily"))
    assert (many["lists"], few["lists"], many["passed"], few["passed"]) == (300, 7, True, True)
    assert many["measured"] == "0.5000 (interval up to 0.6000), 300 lists"
    assert few["measured"] == "0.5000 (interval up to 0.6000), only 7 lists"
    report = (tmp_path / layout.GATE / gate.REPORT_FILE).read_text()
    assert "| floor, list new, streaming | ok |" in report
    assert "| floor, list new, daily | ok, but few lists |" in report
    assert "fewer than 100, says little" in report
    assert checks["serving parity"]["lists"] is None


def test_first_run_without_some_lists_passes_and_says_so(tmp_path: Path) -> None:
    write_measured_run(tmp_path, "one", {("streaming", "any"): 300})
    checks = decided_checks(tmp_path)
    without_events, without_regime = checks["floor, list new, streaming"], checks["floor, list any, daily"]
    assert without_events["passed"] and without_events["measured"] == "not measured: there was no event to score"
    assert without_regime["passed"] and without_regime["measured"] == "not measured: evaluate.regimes has no daily"
    report = (tmp_path / layout.GATE / gate.REPORT_FILE).read_text()
    assert report.count("| not measured |") == 3


@pytest.mark.parametrize("cells", [{("frozen", "new"): 300}, {}])
def test_run_without_any_list_in_the_regimes_of_the_gate_is_refused(cells: Cells, tmp_path: Path) -> None:
    write_measured_run(tmp_path, "one", cells)
    checks = decided_checks(tmp_path)
    assert not any(checks[f"floor, list {kind}, {regime}"]["passed"] for regime, kind in ALL)


def challenger_checks(root: Path, champion_cells: Cells, cells: Cells) -> dict[str, dict[str, Any]]:
    """The checks of a run with lists `cells` against a champion with lists `champion_cells`."""
    write_measured_run(root, "one", champion_cells)
    promote(root, {"verdict": "promote", "checks": []}, keep=5)
    write_measured_run(root, "two", cells)
    measure = {"kind": "share", "value": 0.255, "verdict": "severe", "limits": [0.1, 0.2], "before": {}, "now": {}}
    drift = {"champion": 1, "limits": DriftSettings().model_dump(), "verdict": "severe", "compared": "400 events since"}
    drift |= {"data": files.sha256(root / "prepared" / "events.parquet"), "measures": {"repeated contacts": measure}}
    files.write_json(root / layout.DRIFT / "drift.json", drift)
    return decided_checks(root)


def test_lists_that_only_the_champion_has_keep_a_run_from_being_promoted(tmp_path: Path) -> None:
    without_new = {key: n for key, n in ALL.items() if key != ("daily", "new")}
    checks = challenger_checks(tmp_path, ALL, without_new)
    failed = checks["fall, list new, daily"]
    assert not failed["passed"] and failed["measured"] == "not measured: there was no event to score"
    assert failed["required"].startswith("at least 0.2500")
    assert checks["fall, list any, daily"]["passed"]


def test_lists_that_the_champion_lacks_too_do_not(tmp_path: Path) -> None:
    without_daily = {key: n for key, n in ALL.items() if key[0] != "daily"}
    checks = challenger_checks(tmp_path / "both", without_daily, without_daily)
    assert checks["fall, list new, daily"]["passed"]
    assert checks["fall, list new, daily"]["measured"] == "not measured: evaluate.regimes has no daily"
    checks = challenger_checks(tmp_path / "champion", without_daily, ALL)
    assert checks["fall, list new, daily"]["passed"]
    assert checks["fall, list new, daily"]["measured"] == "0.5000, 300 lists"


def test_refusal_names_measure_and_figure_in_gate_promotion_and_flow(tmp_path: Path) -> None:
    text = "severe (repeated contacts 0.255 > 0.2); 400 events since"
    checks = challenger_checks(tmp_path, ALL, ALL)
    assert checks["drift"]["measured"] == text
    assert f"drift: {text}, required at most warning" in gate.failed_checks(gate.read_decision(tmp_path))
    assert f"| drift | **not met** | {text} | at most warning |" in (tmp_path / layout.GATE / "decision.md").read_text()
    (tmp_path / "params.yaml").write_text("{}\n")
    refused = call(tmp_path, "promote")
    assert refused.returncode == 1 and f"drift: {text}, required at most warning" in refused.stderr


def test_failed_check_of_the_log_is_named_with_its_value_and_limit(tmp_path: Path) -> None:
    write_measured_run(tmp_path, "one", ALL)
    validation = files.read_json(tmp_path / layout.VALIDATION)
    assert decided_checks(tmp_path)["validation"]["measured"] == "every check of the event log passed"
    validation |= {"passed": False, "rules": {"rejected_share": RULE | {"passed": False, "observed": 0.03}}}
    files.write_json(tmp_path / layout.VALIDATION, validation)
    check = decided_checks(tmp_path)["validation"]
    assert not check["passed"] and check["measured"] == "rejected_share 0.03, allowed at most 0.01 (critical)"


def test_decision_of_an_earlier_version_does_not_count(tmp_path: Path) -> None:
    write_measured_run(tmp_path, "one", ALL)
    decision = gate.decide(tmp_path, Params())
    decision["rules"] = decision.pop("checks")
    files.write_json(tmp_path / layout.GATE / gate.DECISION_FILE, decision)
    with pytest.raises(DataError, match="Run `befriend gate` first"):
        gate.read_decision(tmp_path)


def test_verdict_on_drift_names_the_measures_of_the_worst_level() -> None:
    measures = {
        name: {"value": value, "verdict": verdict, "limits": [0.1, 0.25]}
        for name, value, verdict in (("a", 0.05, "ok"), ("b", 0.2, "warning"), ("c", 0.3, "severe"), ("d", 0.4, "severe"))
    }
    drift = {"measures": measures, "compared": "400 events"}
    assert describe_verdict(drift | {"verdict": "severe"}) == "severe (c 0.300 > 0.25, d 0.400 > 0.25)"
    warned = {name: measures[name] for name in ("a", "b")}
    assert describe_verdict(drift | {"verdict": "warning", "measures": warned}) == "warning (b 0.200 > 0.1)"
    assert describe_verdict(drift | {"verdict": "ok", "measures": {"a": measures["a"]}}) == "ok"
    unreadable = {"verdict": "severe", "measures": {}, "compared": "they cannot be compared: other ids"}
    assert describe_verdict(unreadable) == "severe (they cannot be compared: other ids)"
