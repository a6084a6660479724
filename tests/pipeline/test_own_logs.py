"""Logs of your own: formats, side tables, sources that change or cannot be used. Only stage validate runs."""

from __future__ import annotations

import gzip
import subprocess
import time
from pathlib import Path

import polars as pl
import pytest

from befriend import files
from tests.pipeline.conftest import BIN, ENVIRONMENT, call, copy_checkout

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, in which nothing has run. Each test puts in a log of its own."""
    root = tmp_path_factory.mktemp("checkout")
    copy_checkout(root)
    return root


def digests(path: Path) -> dict[str, str]:
    """Digests by name of a file, or of all files in a folder."""
    paths = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name: files.sha256(file) for file in paths}


def test_text_csv_and_a_folder_of_parquet_files_give_the_same_events(checkout: Path, tmp_path: Path) -> None:
    table = pl.read_parquet(checkout / "src/befriend/sample/log/events.parquet")[:5000].filter(action="message")
    text = table.select("actor_id", "target_id", "timestamp").write_csv(separator=" ", include_header=False)
    (tmp_path / "snap.txt").write_text(text)
    (tmp_path / "chat.csv.gz").write_bytes(gzip.compress(table.drop("action").write_csv().encode()))
    (tmp_path / "folder").mkdir()
    table.drop("action").write_parquet(tmp_path / "folder" / "part.parquet")
    digests = set()
    for name in ("snap.txt", "chat.csv.gz", "folder"):
        shown = call(checkout, "befriend", "use", str(tmp_path / name)).stdout
        assert "Next: make run" in shown
        assert "frozen" not in (checkout / "data.dvc").read_text()
        call(checkout, "dvc", "repro", "validate")
        digests.add(files.sha256(checkout / "prepared/events.parquet"))
    assert len(digests) == 1
    # Back to a file, which then grows at its source.
    table.drop("action").write_parquet(tmp_path / "chat.parquet")
    call(checkout, "befriend", "use", str(tmp_path / "chat.parquet"))
    later = table.drop("action").with_columns(pl.col("timestamp") + 86_400 * 400)
    pl.concat([table.drop("action"), later]).write_parquet(tmp_path / "chat.parquet")
    assert "Running stage 'validate'" in call(checkout, "dvc", "repro", "validate").stdout
    assert files.sha256(checkout / "prepared/events.parquet") not in digests


def test_a_folder_can_hold_a_table_of_users(checkout: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    table = pl.read_parquet(checkout / "src/befriend/sample/log/events.parquet")[:5000]
    table.write_parquet(folder / "events.parquet")
    one, other, third = table["actor_id"].unique()[:3]
    good = f"id;country;age\n{one};np;31\n{other};de;\n"
    (folder / "users.csv").write_text(f"{good}{third};de;old\n")
    before = (checkout / "data.dvc").read_bytes(), (checkout / "params.yaml").read_bytes()
    options = ["--attributes", "users.csv", "--user-id", "id", "--separator", ";", "--categorical", "country"]
    done = call(checkout, "befriend", "use", str(folder), *options, "--numeric", "years", ok=False)
    assert (done.returncode, "users.csv has no column years" in done.stderr) == (1, True)
    assert ((checkout / "data.dvc").read_bytes(), (checkout / "params.yaml").read_bytes()) == before
    shown = call(checkout, "befriend", "use", str(folder), *options, "--numeric", "age").stdout
    assert "categorical.country" in shown
    assert "3 rows of users." in shown
    assert "1 rows would be rejected: a number cannot be read" in shown
    (folder / "users.csv").write_text(good)
    call(checkout, "dvc", "repro", "validate")
    assert pl.read_parquet(checkout / "prepared/texts.parquet").height == 0
    users = pl.read_parquet(checkout / "prepared/users.parquet")["user_id"]
    attributes = pl.read_parquet(checkout / "prepared/attributes.parquet").with_columns(users).drop("user")
    known = attributes.filter(pl.col("country").is_not_null()).sort("user_id")
    assert known.rows() == [("np", 31, one), ("de", None, other)]


def test_a_folder_can_hold_texts_and_statements(checkout: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    table = pl.read_parquet(checkout / "src/befriend/sample/log/events.parquet")[:5000]
    table.write_parquet(folder / "events.parquet")
    one = table["actor_id"][0]
    (folder / "posts.jsonl").write_text(
        f'{{"who": {one}, "timestamp": 1704067200, "body": "Hello", "tags": ["slow-food"]}}\n'
        '{"who": 999999, "timestamp": 1704067300, "body": "Me too", "tags": []}\n'
    )
    pl.DataFrame({"user_id": [one], "statement": ["a writer"]}).write_parquet(folder / "said")
    options = ["--texts", "posts.jsonl", "--statements", "said"]
    named = [part for pair in ("user_id=who", "text=body", "tags=tags") for part in ("--text-column", pair)]
    shown = call(checkout, "befriend", "use", str(folder), *options, *named).stdout
    for line in ("2 rows of texts.", "1 rows of statements.", "slow food"):
        assert line in shown
    call(checkout, "dvc", "repro", "validate")
    users = pl.read_parquet(checkout / "prepared/users.parquet")["user_id"]
    texts = pl.read_parquet(checkout / "prepared/texts.parquet")
    assert dict(zip(users.gather(texts["user"]), texts["text"], strict=True)) == {one: "Hello", 999999: "Me too"}
    assert users[-1] == 999999
    statements = pl.read_parquet(checkout / "prepared/statements.parquet").select("timestamp", "statement").rows()
    assert statements == [(None, "a writer"), (1704067200, "interested in slow food")]


def test_an_unusable_source_changes_nothing(checkout: Path, tmp_path: Path) -> None:
    before = (checkout / "data.dvc").read_bytes(), (checkout / "params.yaml").read_bytes()
    (tmp_path / "odd.csv").write_text("a,b,c\n1,2,3\n")
    (tmp_path / "far.csv").write_text("actor,target,ts\n1,2,1600000000000\n")
    data = digests(checkout / "data")
    for source, message in (
        ([tmp_path / "nowhere"], "does not exist"),
        ([tmp_path / "odd.csv"], "which column is"),
        ([tmp_path / "far.csv", "--unit", "s"], "no row of"),
    ):
        done = call(checkout, "befriend", "use", *map(str, source), ok=False)
        assert done.returncode == 2
        assert message in done.stderr
    assert ((checkout / "data.dvc").read_bytes(), (checkout / "params.yaml").read_bytes()) == before
    assert digests(checkout / "data") == data


def test_a_full_disk_is_an_error_and_leaves_no_partial_files(checkout: Path, tmp_path: Path) -> None:
    """In a mount namespace of its own, outputs go to a file system of 400 KiB."""
    call(checkout, "befriend", "use", "--tiny")
    small = tmp_path / "small"
    small.mkdir()
    script = f"""
        set -e
        mount -t tmpfs -o size=400k tmpfs {small}
        cp params.yaml {small}
        cd {small}
        set +e
        befriend validate --source {checkout / "src/befriend/sample/log/events.parquet"} 2> {tmp_path / "message"}
        echo $? > {tmp_path / "code"}
        find . -name '*.tmp' -o -name events.parquet > {tmp_path / "left"}
    """
    call(checkout, "unshare", "--map-root-user", "--mount", "sh", "-c", script)
    assert (tmp_path / "code").read_text().strip() == "1"
    message = (tmp_path / "message").read_text()
    assert "the disk is full" in message
    assert "Traceback" not in message
    assert (tmp_path / "left").read_text() == ""


@pytest.mark.proof
def test_a_source_that_changes_during_a_run_is_read_by_the_next_run(checkout: Path, tmp_path: Path) -> None:
    """A stage reads the copy that DVC made, so that a run has one version of the log."""
    source = tmp_path / "chat.parquet"
    log = pl.read_parquet(checkout / "src/befriend/sample/log/events.parquet")
    log[:9000].write_parquet(source)
    call(checkout, "befriend", "use", str(source))
    running = subprocess.Popen(
        [str(BIN / "dvc"), "repro", "validate"], cwd=checkout, env=ENVIRONMENT, stdout=subprocess.DEVNULL
    )
    time.sleep(2)
    log[:9500].write_parquet(source)
    assert running.wait(timeout=120) == 0
    assert files.read_json(checkout / "reports/validation.json")["rows"]["read"] in (9000, 9500)
    call(checkout, "dvc", "repro", "validate")
    assert files.read_json(checkout / "reports/validation.json")["rows"]["read"] == 9500
