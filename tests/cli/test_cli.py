"""The command line: fast help, clear errors, and one process at a time that runs stages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from befriend import files
from befriend.errors import BusyError
from befriend.stages.run_record import record_run
from befriend.stages.validate import ValidateResult
from tests.conftest import call

BEFRIEND = str(Path(sys.executable).with_name("befriend"))


@pytest.mark.system
def test_help_imports_no_heavy_package() -> None:
    heavy = {"torch", "polars", "numpy", "pandas", "pydantic", "great_expectations", "pandera", "matplotlib", "pyarrow"}
    code = f"import sys, befriend.cli.main; print(sorted(set(sys.modules) & {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["validate"], 2, "is no befriend project: it has no params.yaml, no dvc.yaml and no prepared/"),
        (["validate", "--params", "other"], 2, "An empty file has the defaults: touch other"),
        (["validate", "--params", "params", "--source", "nowhere"], 2, "the event log nowhere does not exist"),
        (["validate", "--params", "params", "--set", "max_rejectd=1"], 2, "Did you mean max_rejected?"),
        (["evaluate", "--params", "params"], 1, "there is no prepared/events.parquet. Run `make run` first"),
        (["simulate", "--out", "x", "--size", "huge"], 2, "Sizes: tiny, sample, regular, 4x"),
        (["simulate", "--out", "x", "--users", "0"], 2, "users: must be at least 10 (found 0)"),
        (["simulate", "--out", "/dev/null/x", "--users", "50", "--events", "200"], 1, "could not be read or written"),
        (["evaluate", "--params", "params", "--set", "regimes=[daily"], 2, "the value is not valid YAML"),
        (["use", "x", "--texts", "t", "--text-column", "text"], 2, "--text-column text: write it as FIELD=COLUMN"),
        (["use"], 2, "give exactly one log: befriend use SOURCE, befriend use --sample, or befriend use --tiny"),
        (["compare", "nowhere"], 2, "nowhere is neither a folder nor a git revision of this project"),
        (["compare", "."], 2, ". has no outputs of a run: there is no prepared"),
        (
            ["settings", "nothing"],
            2,
            "Sections: data, validate, embed_text, tokenize, train_two_tower, train_stu, train_ranker, evaluate, cluster, report, drift, gate, registry, simulate",
        ),
        (["summary"], 2, "is no befriend project"),
        (["use", "nowhere"], 2, "is no befriend project"),
        (["use", "x", "--unit", "min"], 2, "--unit min: the unit of timestamps is one of s, ms, us, ns, iso"),
        (["use", "x", "--separator", ""], 2, "--separator is empty: give the characters between two fields, \\t for a tab"),
        (["evaluate", "--params", "params", "--set", "regimes=[]"], 2, "must be a list of at least 1 value (found [])"),
    ],
)
def test_wrong_call_is_one_message_and_an_exit_code(
    arguments: list[str], code: int, message: str, tmp_path: Path
) -> None:
    (tmp_path / "params").write_text("")
    done = call(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("befriend: ")
    assert message in done.stderr


@pytest.mark.system
def test_ctrl_c_prints_where_it_stopped_and_what_to_do(tmp_path: Path) -> None:
    """Sent to another process after its stage has begun."""
    (tmp_path / "params.yaml").write_text("data: {format: csv}\n")
    with (tmp_path / "log").open("w") as log:
        log.write("actor_id,action,target_id,timestamp\n")
        log.writelines(f"{k % 97},message,{k % 89 + 100},{1_600_000_000 + k}\n" for k in range(20_000))
    with subprocess.Popen(
        [BEFRIEND, "validate", "--source", "log"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # in the background it is ignored
    ) as child:
        record = tmp_path / "runs" / "validate.json"
        while not record.exists():
            assert child.poll() is None
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "\nbefriend: stopped" in errors
    assert "Run the same command again" in errors and "Traceback" not in errors
    run_record = files.read_json(record)
    assert (run_record["exit_code"], run_record["error"][:17]) == (130, "stopped by Ctrl-C")


def test_stage_records_how_it_ended(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("")
    call(tmp_path, "validate")
    record = files.read_json(tmp_path / "runs" / "validate.json")
    assert (record["status"], record["exit_code"]) == ("failed", 2)
    assert record["error"].startswith("the event log data does not exist")
    assert record_run("validate", tmp_path / "runs", lambda: ValidateResult(3, 1, 2, 2, [])).num_events == 2
    record = files.read_json(tmp_path / "runs" / "validate.json")
    assert (record["status"], record["exit_code"], record["error"]) == ("done", 0, None)
    assert record["summary"] == "3 rows read, 1 rejected; 2 events between 2 users; 0 warnings"


@pytest.mark.system
def test_second_process_that_runs_stages_is_refused_and_names_the_first(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("")
    with files.stage_lock(tmp_path / "runs" / "lock"):
        environment = {name: value for name, value in os.environ.items() if name != files.LOCK_VARIABLE}
        other = subprocess.run(
            [BEFRIEND, "validate"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )
        assert other.returncode == BusyError.exit_code
        assert f"process {os.getpid()}" in other.stderr
        # processes that the holder of the lock starts may run stages
        assert "does not exist" in call(tmp_path, "validate").stderr
        own = subprocess.run([BEFRIEND, "validate"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert (own.returncode, "does not exist" in own.stderr) == (2, True)
    assert "does not exist" in call(tmp_path, "validate").stderr


def test_settings_command_lists_settings_of_every_section(tmp_path: Path) -> None:
    shown = call(tmp_path, "settings").stdout
    for name in ("data.columns.actor_id", "validate.max_rejected", "evaluate.regimes", "simulate.homophily"):
        assert name in shown


def test_simulate_writes_a_log_of_the_given_size(tmp_path: Path) -> None:
    done = call(tmp_path, "simulate", "--out", "log", "--users", "100", "--events", "2000", "--set", "homophily=0.9")
    assert "Next: befriend use log/events.parquet" in done.stdout
    assert pl.read_parquet(tmp_path / "log" / "events.parquet").height == 2000
    assert pl.read_parquet(tmp_path / "log" / "truth.parquet").height == 100
    done = call(tmp_path, "simulate", "--out", "log", "--users", "100", "--events", "2000", "--set", "texts=1")
    assert "then befriend use log --texts texts.parquet" in done.stdout
    assert pl.read_parquet(tmp_path / "log" / "texts.parquet").height > 60


def test_lock_of_a_dead_process_is_free(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text("process 1: long gone\n")
    with files.stage_lock(lock):
        assert f"process {os.getpid()}" in lock.read_text()
