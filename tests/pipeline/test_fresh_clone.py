"""A fresh clone, as a new user has it: DVC runs, compares, pushes and pulls, and recovers from faults."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import polars as pl
import pytest
from ruamel.yaml import YAML

from befriend import files
from tests.pipeline.conftest import BIN, ENVIRONMENT, call, copy_checkout

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]


def lock_of(root: Path) -> bytes:
    return (root / "dvc.lock").read_bytes()


def test_the_committed_lock_belongs_to_this_code_and_these_settings(tmp_path: Path) -> None:
    """Outputs are not there yet and may differ with the machine; commands, settings and code are those of the lock."""
    copy_checkout(tmp_path)
    for stage, changes in json.loads(call(tmp_path, "dvc", "status", "--json").stdout).items():
        for change in changes:
            assert change != "changed command", stage
            if stage != "data.dvc":
                changed = change.get("changed deps", {})
                assert not [path for path in changed if path.startswith(("src/", "params"))], (stage, changed)


def test_a_second_repro_runs_nothing(clone: Path) -> None:
    assert "Data and pipelines are up to date." in call(clone, "dvc", "repro").stdout


def test_the_summary_shows_metrics_and_paths(clone: Path) -> None:
    shown = call(clone, "befriend", "summary").stdout
    assert "People you may know" in shown
    for path in ("reports/validation/report.md", "reports/evaluation/report.md"):
        assert path in shown
        assert (clone / path).is_file()


@pytest.mark.proof
def test_dvc_runs_an_experiment_and_shows_how_its_metrics_differ(clone: Path) -> None:
    call(clone, "git", "add", "-A")
    call(clone, "git", "commit", "-q", "-m", "results", "--allow-empty")
    call(clone, "dvc", "exp", "run", "-S", "evaluate.events=60", "-S", "evaluate.regimes=[daily]")
    shown = call(clone, "dvc", "metrics", "diff").stdout
    assert "new.daily.both" in shown and "newcomers.daily" in shown
    assert "validation.json" not in shown
    call(clone, "dvc", "plots", "show")
    call(clone, "git", "checkout", "-q", ".")
    call(clone, "dvc", "checkout")
    assert "up to date" in call(clone, "dvc", "repro").stdout


def test_a_revision_can_be_compared_with_the_current_run(clone: Path) -> None:
    shown = call(clone, "befriend", "compare", "HEAD", ".").stdout
    assert "newcomers" in shown and "Every target has the same rank in both runs" in shown


def push_and_pull(clone: Path, folder: Path, *settings: tuple[str, ...], **secrets: str) -> None:
    """Pushes the clone's results to a remote; another clone pulls them, and has nothing left to run."""
    there = folder / "there"
    call(clone, "git", "stash", "--quiet", "--include-untracked")
    for command in settings:
        call(clone, "dvc", "remote", *command)
    call(clone, "git", "commit", "-qam", "a remote")
    try:
        assert "pushed" in call(clone, "dvc", "push", **secrets).stdout
        call(folder, "git", "clone", "-q", str(clone), str(there))
        # `data.dvc` names where the log comes from, and DVC looks there whether the log has grown.
        shutil.copytree(clone / "runs/tiny", there / "runs/tiny")
        call(there, "dvc", "pull", **secrets)
        output = call(there, "dvc", "repro").stdout
        assert "Running stage" not in output and "up to date" in output
        assert lock_of(there) == lock_of(clone)
        assert "People you may know" in call(there, "befriend", "summary").stdout
    finally:
        call(clone, "git", "reset", "-q", "--hard", "HEAD~1")
        call(clone, "git", "stash", "pop", "--quiet", ok=False)


def test_a_clone_that_pulls_from_a_folder_runs_nothing(clone: Path, tmp_path: Path) -> None:
    push_and_pull(clone, tmp_path, ("add", "--default", "store", str(tmp_path / "store")))


def test_a_clone_that_pulls_from_s3_runs_nothing(clone: Path, tmp_path: Path) -> None:
    """From a server that speaks S3; its keys come from the environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [BIN / "moto_server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.2)
        make = "import boto3, sys; boto3.client('s3', endpoint_url=sys.argv[1]).create_bucket(Bucket='befriend')"
        call(tmp_path, str(BIN / "python"), "-c", make, address, **keys)
        where = ("add", "--default", "store", "s3://befriend/store")
        push_and_pull(clone, tmp_path, where, ("modify", "store", "endpointurl", address), **keys)
    finally:
        server.kill()
        server.wait()


@pytest.mark.proof
def test_after_another_log_and_back_the_results_are_as_before(clone: Path, tmp_path: Path) -> None:
    log = pl.read_parquet(clone / "src/befriend/sample/log/events.parquet")
    log[:5000].write_parquet(tmp_path / "events.parquet")
    call(clone, "befriend", "use", str(tmp_path / "events.parquet"))
    call(clone, "dvc", "repro", "validate")
    call(clone, "befriend", "use", "--tiny")
    call(clone, "dvc", "repro")
    assert call(clone, "git", "diff", "--stat", "data.dvc", "dvc.lock").stdout == ""


def test_a_failed_stage_says_why_and_the_next_run_recovers(clone: Path, tmp_path: Path) -> None:
    before = lock_of(clone)
    params = (clone / "params.yaml").read_text()
    (clone / "params.yaml").write_text(params.replace("actions: [accept, ", "actions: ["))
    done = call(clone, "dvc", "repro", ok=False)
    assert done.returncode == 255
    assert "The log also has: accept" in done.stderr
    assert files.read_json(clone / "runs/validate.json")["exit_code"] == 1
    (clone / "params.yaml").write_text(params)
    call(clone, "dvc", "repro")
    assert lock_of(clone) == before


@pytest.mark.parametrize(("stage", "seconds"), [("validate", 2), ("tokenize", 4)])
def test_after_a_stage_was_killed_the_next_run_gives_the_same_bytes(stage: str, seconds: float, clone: Path) -> None:
    """`bench/faults.py` kills every stage, at random times."""
    before = lock_of(clone)
    child = subprocess.Popen(
        [str(BIN / "dvc"), "repro", "--force", "--single-item", stage],
        cwd=clone, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    time.sleep(seconds)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    call(clone, "dvc", "repro")
    assert lock_of(clone) == before


def test_a_damaged_cache_is_noticed_and_its_stage_runs_again(clone: Path) -> None:
    """The output is gone, and what DVC keeps of it holds other bytes: it must not come back like that."""
    before, table = lock_of(clone), clone / "models" / "tokens" / "table.parquet"
    sound = table.read_bytes()
    digest = next(
        entry["md5"] for entry in files.read_json(cached(clone, lock_entry(clone, "tokenize", "models/tokens")))
        if entry["relpath"] == "table.parquet"
    )  # fmt: skip
    kept = cached(clone, digest)
    kept.chmod(0o644)
    kept.write_bytes(b"damaged" + sound[7:])
    shutil.rmtree(clone / "models" / "tokens")
    call(clone, "dvc", "repro", "tokenize")
    assert table.read_bytes() == sound
    assert lock_of(clone) == before


def lock_entry(root: Path, stage: str, path: str) -> str:
    outs = YAML(typ="safe").load(root / "dvc.lock")["stages"][stage]["outs"]
    return next(out["md5"] for out in outs if out["path"] == path)


def cached(root: Path, digest: str) -> Path:
    return root / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]


@pytest.mark.proof
@pytest.mark.skipif(not shutil.which("faketime"), reason="needs Debian's package faketime")
def test_a_clock_that_goes_backwards_changes_nothing(clone: Path) -> None:
    before = lock_of(clone)
    call(clone, "befriend", "gate")
    for date in ("2040-01-01 00:00:00", "2001-01-01 00:00:00"):
        call(clone, "faketime", date, "dvc", "repro", "--force", "--single-item", "validate")
        assert lock_of(clone) == before
        call(clone, "faketime", date, "befriend", "gate")
        call(clone, "faketime", date, "befriend", "promote", ok=False)
    assert "up to date" in call(clone, "dvc", "repro").stdout
    assert "champion 1" in call(clone, "befriend", "promote", ok=False).stdout
    user = pl.read_parquet(clone / "prepared/users.parquet")["user_id"][0]
    assert "champion 1" in call(clone, "befriend", "recommend", "--user", str(user)).stderr
