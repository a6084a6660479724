"""The gate, drift and erasure on real runs: a champion of 2,400 events and a challenger of 3,000."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from matplotlib.figure import Figure

from befriend import files, layout
from befriend.analysis.evaluate_settings import EvaluateSettings
from befriend.analysis.paired_comparison import compare_runs
from befriend.api import load
from befriend.config import Params
from befriend.data.erasure import erasure_digest, read_erasure_digests
from befriend.errors import CallError, DataError
from befriend.monitoring.monitoring_settings import DriftSettings, GateSettings
from befriend.objectives.cluster_settings import ClusterSettings
from befriend.ops import erase_users, gate
from befriend.ops.champion_replay import replay_champion
from befriend.ops.drift_check import measure_drift
from befriend.ops.registry import current_champion, promote
from befriend.ops.serve_lists import load_run
from befriend.ops.served_run import find_served_run
from befriend.readers.data_settings import DataSettings
from befriend.simulate.network import write
from befriend.simulate.network_settings import SimulateSettings
from befriend.stages import cluster, evaluate
from befriend.validation.validate_settings import ValidateSettings
from tests.projects import embed, train_everything, validate_log

pytestmark = pytest.mark.system  # needs a run of every stage

EVALUATE = EvaluateSettings(events=250, bootstrap=100, regimes=["streaming", "daily"])
PARAMS = Params(evaluate=EVALUATE, gate=GateSettings(drift="severe", fall=0.9, floor=0.3), drift=DriftSettings())
CLUSTER = ClusterSettings(epochs=1, clusters=4, events_per_batch=128, validation_events=30, threads=1)


def run_stages(root: Path, num_events: int) -> None:
    """Runs all stages on the first `num_events` events of the log."""
    table = pl.read_parquet(root / "log" / "events.parquet")[:num_events]
    table.write_parquet(root / "source")
    data = DataSettings(roles={"view": "signal", "block": "exclude"})
    folders = root / "prepared", root / "models", root / "reports"
    validate_log(data, ValidateSettings(), root / "source", root / "prepared", root / "reports")
    embed(root)
    train_everything(root)
    evaluate.run(EVALUATE, *folders)
    cluster.run(CLUSTER, *folders, root / ".checkpoints")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose champion was trained on the first 2,400 events, and whose current run on 3,000."""
    root = tmp_path_factory.mktemp("project")
    write(SimulateSettings(users=120, events=3000, seed=1), root / "log")
    run_stages(root, 2400)
    decision = gate.decide(root, PARAMS)
    assert (decision["verdict"], decision["champion"]) == ("promote", None)
    promote(root, decision, keep=5)
    assert gate.decide(root, PARAMS)["verdict"] == "unchanged"
    run_stages(root, 3000)
    return root


def failed_checks(decision: dict[str, Any]) -> set[str]:
    return {check["name"] for check in decision["checks"] if not check["passed"]}


@pytest.fixture(scope="module")
def decision(project: Path) -> dict[str, Any]:
    return gate.decide(project, PARAMS)


def test_decision_has_a_measured_and_a_required_value_for_each_check(decision: dict[str, Any], project: Path) -> None:
    checks = {check["name"]: check for check in decision["checks"]}
    slices = ("list new, streaming", "list new, daily", "list any, streaming", "list any, daily")
    newcomer_slices = ("newcomers, list new, streaming", "newcomers, list new, daily")
    names = {
        "validation",
        "metrics are current",
        "serving parity",
        "never rolled back",
        "drift",
        *(f"{name}, {title}" for name in ("floor", "fall") for title in slices),
        *(f"against the champion, {title}" for title in (*slices, *newcomer_slices)),
    }
    assert checks.keys() == names
    assert decision["verdict"] == ("promote" if all(check["passed"] for check in checks.values()) else "refuse")
    report = (project / layout.GATE / "decision.md").read_text()
    assert all(f"| {name} |" in report and checks[name]["measured"] in report for name in names)


def test_champion_is_compared_on_the_evaluation_events_of_the_challenger(
    project: Path, decision: dict[str, Any], tmp_path: Path
) -> None:
    """The metrics of the challenger are those of its own evaluation; those of the champion come from its replay."""
    champion = current_champion(project)
    assert champion is not None
    replay_champion(champion.folder, project / "prepared", EVALUATE, tmp_path / "replay")
    metrics_table = compare_runs(tmp_path / "replay", project, "both").metrics
    metrics = files.read_json(project / layout.METRICS)
    for row in metrics_table.filter(list="new", segment="new").iter_rows(named=True):
        cell = metrics[row["regime"]]["new"]["new"]["both"]
        assert row["n"] == cell["n"] > 0
        assert row["ndcg@10 b"] == pytest.approx(cell["ndcg@10"], abs=1e-6)
        name = f"against the champion, list new, {row['regime']}"
        check = next(check for check in decision["checks"] if check["name"] == name)
        assert check["measured"].startswith(f"{row['ndcg@10 b']:.4f} against {row['ndcg@10 a']:.4f}")


def test_challenger_with_reversed_lists_is_refused(project: Path) -> None:
    lists = project / "reports" / "predictions" / "both" / "streaming.parquet"
    original = lists.read_bytes()
    try:
        pl.read_parquet(lists).with_columns(pl.col("users").list.reverse()).write_parquet(lists)
        decision = gate.decide(project, PARAMS)
    finally:
        lists.write_bytes(original)
    assert decision["verdict"] == "refuse"
    assert "against the champion, list new, streaming" in failed_checks(decision)


def test_a_loss_is_clear_if_it_exceeds_the_tolerance_its_interval_and_most_windows_show_it() -> None:
    def passes(difference: float, high: float, windows: list[float]) -> bool:
        row = {"ndcg@10 a": 0.5, "ndcg@10 b": 0.5 + difference, "ndcg@10 difference": difference, "ndcg@10 low": -0.3}
        return gate.check_difference("check", row | {"ndcg@10 high": high, "n": 500, "windows": windows}, 0.02).passed

    assert not passes(-0.1, -0.05, [-0.1])
    assert not passes(-0.1, -0.05, [-0.3, -0.1, 0.1])
    assert passes(-0.1, -0.05, [-0.5, 0.1, 0.1])  # the loss of a single day
    assert passes(-0.1, 0.01, [-0.1, -0.1, -0.1])  # the interval contains 0
    assert passes(-0.009, -0.001, [-0.009])  # less than 2 % of .5


def test_challenger_below_the_floor_is_refused(project: Path) -> None:
    strict = GateSettings(floor=5, fall=0, drift="ok")
    limits = DriftSettings(ks_warning=1e-6, ks_severe=2e-6, share_warning=1e-6, share_severe=2e-6)
    files.remove(project / layout.DRIFT)
    params = Params(evaluate=EVALUATE, gate=strict, drift=limits)
    assert "floor, list new, daily" in failed_checks(gate.decide(project, params))
    files.remove(project / layout.DRIFT)


@pytest.mark.parametrize("parity", [{"requests": 300, "differ": 1}, None])
def test_run_with_a_single_list_that_is_served_differently_is_refused(
    project: Path, parity: dict[str, int] | None
) -> None:
    path = project / layout.METRICS
    original = path.read_text()
    try:
        files.write_json(path, files.read_json(path) | {"served": parity})
        decision = gate.decide(project, PARAMS)
    finally:
        path.write_text(original)
    check = next(check for check in decision["checks"] if check["name"] == "serving parity")
    assert decision["verdict"] == "refuse" and not check["passed"]
    assert check["measured"] == ("1 of 300 lists differ" if parity else "no list was compared")


def test_run_with_metrics_of_other_models_is_refused(project: Path) -> None:
    weights = project / "models" / "stu" / "weights.safetensors"
    original = weights.read_bytes()
    try:
        weights.write_bytes(original + b" ")
        failed = failed_checks(gate.decide(project, PARAMS))
    finally:
        weights.write_bytes(original)
    assert "metrics are current" in failed


def test_run_whose_log_cannot_be_compared_is_refused_with_a_reason(project: Path, tmp_path: Path) -> None:
    root = tmp_path / "project"
    shutil.copytree(project, root, symlinks=True)
    users = root / "prepared" / "users.parquet"
    pl.read_parquet(users).with_columns(pl.col("user_id").cast(pl.String)).write_parquet(users)
    files.remove(root / layout.DRIFT)
    decision = gate.decide(root, PARAMS.model_copy(update={"gate": GateSettings()}))
    checks = {check["name"]: check for check in decision["checks"]}
    assert not checks["drift"]["passed"] and "they cannot be compared" in checks["drift"]["measured"]
    assert not checks["against the champion"]["passed"]


def test_decision_about_another_run_is_an_error(project: Path) -> None:
    gate.decide(project, PARAMS)
    assert gate.read_decision(project)["champion"] == 1
    events = project / "prepared" / "events.parquet"
    original = events.read_bytes()
    pl.read_parquet(events)[:-1].write_parquet(events)
    with pytest.raises(DataError, match="Run `befriend gate` first"):
        gate.read_decision(project)
    events.write_bytes(original)


def test_champion_can_make_lists_from_newer_events(project: Path) -> None:
    with contextlib.chdir(project):
        old, current = (load_run(find_served_run(None, use_latest_log=latest)) for latest in (False, True))
        lists = current.recommend(current.log.user_ids, k=5)
    assert (old.log.num_events, current.log.num_events) == (2400, 3000)
    assert (
        lists["last_active"].max()
        > pl.from_epoch(pl.Series([int(old.log.timestamp[-1])]), "s").dt.replace_time_zone("UTC")[0]
    )
    assert current.models.two_tower.model.state_dict().keys() == old.models.two_tower.model.state_dict().keys()


def test_drift_compares_the_events_after_the_end_of_the_champions_log(
    project: Path, figures: dict[str, Figure]
) -> None:
    champion = current_champion(project)
    assert champion is not None
    drift = measure_drift(project, champion, DriftSettings())
    assert drift["compared"].startswith("600 events since")
    assert set(drift["measures"]) >= {"actions", "first tokens", "contacts a user", "answered pairs"}
    panels = {axes.get_title().split(":")[0]: axes for axes in figures["drift.png"].axes}
    for name, measure in drift["measures"].items():
        heights = [bar.get_height() for bar in panels[name].patches]
        assert heights == pytest.approx([*measure["before"].values(), *measure["now"].values()])


def test_erased_user_is_on_no_list_at_once_and_in_no_file_after_the_next_run(project: Path, tmp_path: Path) -> None:
    root = tmp_path / "project"
    shutil.copytree(project, root, symlinks=True)
    befriend = load(root / layout.CHAMPION)
    lists = befriend.recommend(befriend.log.user_ids, k=5)
    erased = lists["recommended"].value_counts(sort=True)["recommended"][0]
    lists.write_parquet(root / layout.LISTS)
    assert "runs/lists.parquet" in erase_users.find_traces(root, str(erased))
    with pytest.raises(CallError, match="there is no user with the id 999999"):
        erase_users.erase(root, ["999999"])

    erase_users.erase(root, [str(erased)])
    for folder in (root, root / layout.CHAMPION):
        reloaded = load(folder)
        assert read_erasure_digests(folder / layout.PREPARED) == {erasure_digest(erased)}
        new_lists = reloaded.recommend(reloaded.log.user_ids, k=50)
        assert erased not in new_lists["recommended"].to_list()
        assert not new_lists.filter(user=erased, known=True).height
        assert erased not in reloaded.vectors()["user_id"].to_list()
    assert "runs/lists.parquet" not in erase_users.find_traces(root, str(erased))

    run_stages(root, 3000)
    assert erase_users.find_traces(root, str(erased)) == []
    erase_users.verify_erasure(root, [str(erased)])
    assert gate.decide(root, PARAMS)["champion"] == 1  # its models load, although internal ids have changed
    with pytest.raises(CallError, match="traces are left"):
        erase_users.verify_erasure(root, [str(befriend.log.user_ids[5])])
