"""Messages name a step that works where they are shown: outside a project, in odd locales, with mistakes in settings."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import befriend
from befriend.errors import CallError
from tests.cli.small_project import make_project
from tests.cli.test_answers_at_once import STAGES
from tests.conftest import call

BEFRIEND = str(Path(sys.executable).with_name("befriend"))
COMMANDS_OF_A_PROJECT = (
    *STAGES,
    "recommend --user 1",
    "export out.parquet",
    "use --tiny",
    "summary",
    "drift",
    "gate",
    "promote",
    "rollback",
    "champion",
    "forget 1",
    "tidy",
    "text similar 1",
    "text infer 1 hiking",
    "tokens show 1",
    "tokens like 1",
    "tokens assign x --out y",
    "doctor",
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("small") / "project")


@pytest.mark.parametrize("command", COMMANDS_OF_A_PROJECT)
def test_outside_a_project_every_command_says_so_and_where_to_go(command: str, project: Path, tmp_path: Path) -> None:
    for folder, step in ((tmp_path, "(cd FOLDER)"), (project / "models" / "ranker", f"cd {project}")):
        done = call(folder, *command.split())
        output = done.stdout + done.stderr
        assert done.returncode == (1 if command == "doctor" else 2)
        assert f"{folder} is no befriend project: it has no params.yaml" in output and step in output
        assert list(folder.iterdir()) == []


def test_the_api_says_so_as_well(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="is no befriend project"):
        befriend.load(tmp_path)
    with pytest.raises(CallError, match="there is no folder"):
        befriend.load(tmp_path / "nowhere")


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_reports_mistakes_of_all_sections(stage: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("registry: {keep: none}\nreport: {peoples: 3}\n")
    done = call(tmp_path, stage)
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [tmp_path / "params.yaml"])
    assert "registry.keep: must be a whole number (found 'none')" in done.stderr
    assert "report.peoples: there is no such setting. Did you mean people?" in done.stderr


def test_version(tmp_path: Path) -> None:
    assert call(tmp_path, "--version").stdout == f"befriend {version('befriend')}\n"


def test_a_locale_without_utf8_is_no_traceback(project: Path) -> None:
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [BEFRIEND, "recommend", "--user", "10", "--action", "poké"]
    done = subprocess.run(command, cwd=project, env=os.environ | locale, capture_output=True)
    assert done.returncode == 2
    assert done.stderr.decode() == "befriend: there is no action “poké”. There are: block, message.\n"


@pytest.mark.parametrize("arguments", [["recommend", "--user", b"\xff\xfe"], [b"\xff"], ["forget", b"caf\xe9"]])
def test_bytes_that_are_no_text_are_a_message(arguments: list[str | bytes], project: Path) -> None:
    done = subprocess.run([BEFRIEND, *arguments], cwd=project, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("befriend: the argument ")
    assert "is not valid UTF-8. Write ids and file names in UTF-8" in done.stderr


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("-k", "x", "must be a whole number"),
        ("-k", "0", "must be at least 1"),
        ("--diversity", "2", "must be at most 1"),
        ("--regime", "x", "'x' is not one of 'streaming', 'live', 'daily', 'frozen'"),
    ],
)
def test_wrong_values_of_options_are_described_as_wrong_settings_are(option: str, value: str, message: str) -> None:
    """In a process of its own, since Typer's frames are as wide as the terminal when it is imported."""
    command = [BEFRIEND, "recommend", "--user", "1", option, value]
    done = subprocess.run(command, env=os.environ | {"COLUMNS": "160"}, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"Invalid value for '{option}': {message}" in done.stderr
    assert "Try 'befriend recommend --help' for help" in done.stderr
