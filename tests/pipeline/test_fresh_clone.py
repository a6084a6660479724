"""What a new user meets: a fresh clone, DVC for real, other logs, faults from outside."""

from __future__ import annotations

import contextlib
import gzip
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


def test_the_committed_lock_is_that_of_this_code_and_these_settings(tmp_path: Path) -> None:
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


def test_the_summary_shows_figures_and_paths(clone: Path) -> None:
    shown = call(clone, "befriend", "summary").stdout
    assert "People you may know" in shown
    for path in ("reports/validation/report.md", "reports/evaluation/report.md"):
        assert path in shown
        assert (clone / path).is_file()


def test_experiments_and_metrics_differ_as_dvc_shows_them(clone: Path) -> None:
    call(clone, "git", "add", "-A")
    call(clone, "git", "commit", "-q", "-m", "results", "--allow-empty")
    call(clone, "dvc", "exp", "run", "-S", "evaluate.events=60", "-S", "evaluate.regimes=[daily]")
    shown = call(clone, "dvc", "metrics", "diff").stdout
    assert "daily.new.new.popularity.n" in shown
    assert "validation.json" not in shown
    call(clone, "dvc", "plots", "show")
    call(clone, "git", "checkout", "-q", ".")
    call(clone, "dvc", "checkout")
    assert "up to date" in call(clone, "dvc", "repro").stdout


def test_a_revision_is_compared_with_the_run_that_is_here(clone: Path) -> None:
    shown = call(clone, "befriend", "compare", "HEAD", ".").stdout
    assert "newcomers" in shown and "every target has the same rank in both runs" in shown


def pulled(clone: Path, folder: Path, *settings: tuple[str, ...], **secrets: str) -> None:
    """Pushes the clone's results to a remote; another clone pulls them, and has nothing left to run."""
    there = folder / "there"
    call(clone, "git", "stash", "--quiet", "--include-untracked")
    for command in settings:
        call(clone, "dvc", "remote", *command)
    call(clone, "git", "commit", "-qam", "a remote")
    try:
        assert "pushed" in call(clone, "dvc", "push", **secrets).stdout
        call(folder, "git", "clone", "-q", str(clone), str(there))
        call(there, "dvc", "pull", **secrets)
        told = call(there, "dvc", "repro").stdout
        assert "Running stage" not in told and "up to date" in told
        assert lock_of(there) == lock_of(clone)
        assert "People you may know" in call(there, "befriend", "summary").stdout
    finally:
        call(clone, "git", "reset", "-q", "--hard", "HEAD~1")
        call(clone, "git", "stash", "pop", "--quiet", ok=False)


def test_a_clone_pulls_from_a_folder_and_runs_nothing(clone: Path, tmp_path: Path) -> None:
    pulled(clone, tmp_path, ("add", "--default", "store", str(tmp_path / "store")))


def test_a_clone_pulls_from_s3_and_runs_nothing(clone: Path, tmp_path: Path) -> None:
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
        pulled(clone, tmp_path, where, ("modify", "store", "endpointurl", address), **keys)
    finally:
        server.kill()
        server.wait()


def test_a_log_of_ones_own_in_three_forms_gives_the_same_events(clone: Path, tmp_path: Path) -> None:
    table = pl.read_parquet(clone / "src/befriend/sample/log/events.parquet")[:5000].filter(action="message")
    text = table.select("actor_id", "target_id", "timestamp").write_csv(separator=" ", include_header=False)
    (tmp_path / "snap.txt").write_text(text)
    (tmp_path / "chat.csv.gz").write_bytes(gzip.compress(table.drop("action").write_csv().encode()))
    table.drop("action").write_parquet(tmp_path / "chat.parquet")
    found = set()
    for name in ("snap.txt", "chat.csv.gz", "chat.parquet"):
        shown = call(clone, "befriend", "use", str(tmp_path / name)).stdout
        assert "Next: dvc repro" in shown
        assert "frozen" not in (clone / "data.dvc").read_text()
        call(clone, "dvc", "repro", "validate")
        found.add(files.sha256(clone / "prepared/events.parquet"))
    assert len(found) == 1
    # A folder, and back to a file.
    (tmp_path / "folder").mkdir()
    table.drop("action").write_parquet(tmp_path / "folder" / "part.parquet")
    for name in ("folder", "chat.parquet"):
        call(clone, "befriend", "use", str(tmp_path / name))
        call(clone, "dvc", "repro", "validate")
        assert files.sha256(clone / "prepared/events.parquet") in found
    # A log that grows at its source is noticed by itself.
    later = table.drop("action").with_columns(pl.col("timestamp") + 86_400 * 400)
    pl.concat([table.drop("action"), later]).write_parquet(tmp_path / "chat.parquet")
    assert "Running stage 'validate'" in call(clone, "dvc", "repro", "validate").stdout
    assert files.sha256(clone / "prepared/events.parquet") not in found
    call(clone, "befriend", "use", "--tiny")
    call(clone, "dvc", "repro")
    assert call(clone, "git", "diff", "--stat", "data.dvc", "dvc.lock").stdout == ""


def test_a_folder_with_a_table_of_users(clone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    table = pl.read_parquet(clone / "src/befriend/sample/log/events.parquet")[:5000]
    table.write_parquet(folder / "events.parquet")
    one, other, third = table["actor_id"].unique()[:3]
    good = f"id;country;age\n{one};np;31\n{other};de;\n"
    (folder / "users.csv").write_text(f"{good}{third};de;old\n")
    before = (clone / "data.dvc").read_bytes(), (clone / "params.yaml").read_bytes()
    told = ["--attributes", "users.csv", "--user-id", "id", "--separator", ";", "--categorical", "country"]
    done = call(clone, "befriend", "use", str(folder), *told, "--numeric", "years", ok=False)
    assert (done.returncode, "users.csv has no column years" in done.stderr) == (1, True)
    assert ((clone / "data.dvc").read_bytes(), (clone / "params.yaml").read_bytes()) == before
    shown = call(clone, "befriend", "use", str(folder), *told, "--numeric", "age").stdout
    assert "categorical.country" in shown
    assert "3 rows of users." in shown
    assert "1 rows would be refused: a number cannot be read" in shown
    (folder / "users.csv").write_text(good)
    call(clone, "dvc", "repro", "validate")
    assert pl.read_parquet(clone / "prepared/texts.parquet").height == 0
    users = pl.read_parquet(clone / "prepared/users.parquet")["user_id"]
    found = pl.read_parquet(clone / "prepared/attributes.parquet").with_columns(users).drop("user")
    known = found.filter(pl.col("country").is_not_null()).sort("user_id")
    assert known.rows() == [("np", 31, one), ("de", None, other)]
    call(clone, "befriend", "use", "--tiny")
    call(clone, "dvc", "repro")


def test_a_folder_with_texts_and_statements(clone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    table = pl.read_parquet(clone / "src/befriend/sample/log/events.parquet")[:5000]
    table.write_parquet(folder / "events.parquet")
    one = table["actor_id"][0]
    (folder / "posts.jsonl").write_text(
        f'{{"who": {one}, "timestamp": 1704067200, "body": "Hello", "tags": ["slow-food"]}}\n'
        '{"who": 999999, "timestamp": 1704067300, "body": "Me too", "tags": []}\n'
    )
    pl.DataFrame({"user_id": [one], "statement": ["a writer"]}).write_parquet(folder / "said")
    told = ["--texts", "posts.jsonl", "--statements", "said"]
    named = [part for pair in ("user_id=who", "text=body", "tags=tags") for part in ("--text-column", pair)]
    shown = call(clone, "befriend", "use", str(folder), *told, *named).stdout
    for line in ("2 rows of texts.", "1 rows of statements.", "slow food"):
        assert line in shown
    call(clone, "dvc", "repro", "validate")
    users = pl.read_parquet(clone / "prepared/users.parquet")["user_id"]
    texts = pl.read_parquet(clone / "prepared/texts.parquet")
    assert dict(zip(users.gather(texts["user"]), texts["text"], strict=True)) == {one: "Hello", 999999: "Me too"}
    assert users[-1] == 999999
    said = pl.read_parquet(clone / "prepared/statements.parquet").select("timestamp", "statement").rows()
    assert said == [(None, "a writer"), (1704067200, "interested in slow food")]
    call(clone, "befriend", "use", "--tiny")
    call(clone, "dvc", "repro")


def test_a_source_that_cannot_be_used_leaves_everything_as_it_was(clone: Path, tmp_path: Path) -> None:
    before = (clone / "data.dvc").read_bytes(), (clone / "params.yaml").read_bytes()
    (tmp_path / "odd.csv").write_text("a,b,c\n1,2,3\n")
    (tmp_path / "far.csv").write_text("actor,target,ts\n1,2,1600000000000\n")
    data = {path.name: files.sha256(path) for path in (clone / "data").iterdir()}
    for source, message in (
        ([tmp_path / "nowhere"], "does not exist"),
        ([tmp_path / "odd.csv"], "which column is"),
        ([tmp_path / "far.csv", "--unit", "s"], "no row of"),
    ):
        done = call(clone, "befriend", "use", *map(str, source), ok=False)
        assert done.returncode == 2
        assert message in done.stderr
    assert ((clone / "data.dvc").read_bytes(), (clone / "params.yaml").read_bytes()) == before
    assert {path.name: files.sha256(path) for path in (clone / "data").iterdir()} == data


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


@pytest.mark.parametrize("stage", ["validate", "tokenize"])
def test_a_stage_killed_at_any_moment_ends_in_the_same_bytes(stage: str, clone: Path) -> None:
    before = lock_of(clone)
    for seconds in (1.5, 4):
        child = subprocess.Popen(
            [str(BIN / "dvc"), "repro", "--force", "--single-item", stage],
            cwd=clone, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        time.sleep(seconds)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        call(clone, "dvc", "repro")
        assert lock_of(clone) == before


def test_a_full_disk_is_told_and_nothing_half_written_stays(clone: Path, tmp_path: Path) -> None:
    """In a mount namespace of its own, outputs go to a file system of 400 KiB."""
    small = tmp_path / "small"
    small.mkdir()
    script = f"""
        set -e
        mount -t tmpfs -o size=400k tmpfs {small}
        cp params.yaml {small}
        cd {small}
        set +e
        befriend validate --source {clone / "src/befriend/sample/log/events.parquet"} 2> {tmp_path / "message"}
        echo $? > {tmp_path / "code"}
        find . -name '*.tmp' -o -name events.parquet > {tmp_path / "left"}
    """
    call(clone, "unshare", "--map-root-user", "--mount", "sh", "-c", script)
    assert (tmp_path / "code").read_text().strip() == "1"
    message = (tmp_path / "message").read_text()
    assert "the disk is full" in message
    assert "Traceback" not in message
    assert (tmp_path / "left").read_text() == ""


def test_a_damaged_cache_is_noticed_and_made_anew(clone: Path) -> None:
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


def test_a_source_that_changes_meanwhile_is_taken_up_by_the_next_run(clone: Path, tmp_path: Path) -> None:
    """A stage reads the copy that DVC made: the run that goes on is of one version of the log."""
    source = tmp_path / "chat.parquet"
    log = pl.read_parquet(clone / "src/befriend/sample/log/events.parquet")
    log[:9000].write_parquet(source)
    call(clone, "befriend", "use", str(source))
    running = subprocess.Popen(
        [str(BIN / "dvc"), "repro", "validate"], cwd=clone, env=ENVIRONMENT, stdout=subprocess.DEVNULL
    )
    time.sleep(2)
    log[:9500].write_parquet(source)
    assert running.wait(timeout=120) == 0
    assert files.read_json(clone / "reports/validation.json")["rows"]["read"] in (9000, 9500)
    call(clone, "dvc", "repro", "validate")
    assert files.read_json(clone / "reports/validation.json")["rows"]["read"] == 9500
    call(clone, "befriend", "use", "--tiny")
    call(clone, "dvc", "repro")
    assert call(clone, "git", "diff", "--stat", "data.dvc", "dvc.lock").stdout == ""


@pytest.mark.skipif(not shutil.which("faketime"), reason="needs Debian's package faketime")
def test_a_clock_that_goes_backwards_changes_nothing(clone: Path) -> None:
    before = lock_of(clone)
    call(clone, "befriend", "gate")
    for moment in ("2001-01-01 00:00:00", "2040-01-01 00:00:00", "2002-01-01 00:00:00"):
        call(clone, "faketime", moment, "dvc", "repro", "--force", "--single-item", "validate")
        assert lock_of(clone) == before
        call(clone, "faketime", moment, "befriend", "gate")
        call(clone, "faketime", moment, "befriend", "promote", ok=False)
    assert "up to date" in call(clone, "dvc", "repro").stdout
    assert "champion 1" in call(clone, "befriend", "promote", ok=False).stdout
    user = pl.read_parquet(clone / "prepared/users.parquet")["user_id"][0]
    assert "champion 1" in call(clone, "befriend", "recommend", "--user", str(user)).stderr
