"""A run of the committed inputs on another kind of processor leaves the checkout clean, and is compared with it."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from befriend.analysis.figure_comparison import FigureDifference
from befriend.ops.processor import processor_name, promises_equal_bytes
from tasks import reproduction
from tasks.reproduction import LOCAL, Reproduction, compare_and_set_aside, use_local_files

LOCK = """
stages:
  train:
    cmd: befriend train
    deps: [{{path: code, md5: {code}}}, {{path: prepared, md5: {prepared}}}]
    params: {{params.yaml: {{train.seed: {seed}}}}}
    outs: [{{path: model, md5: {model}}}]
  validate:
    cmd: befriend validate
    deps: [{{path: data, md5: log}}]
    outs: [{{path: prepared, md5: {prepared}}}]
"""


def write_run(model: str, ndcg: float, prepared: str = "p", code: str = "c", seed: int = 0) -> None:
    Path("reports").mkdir(exist_ok=True)
    Path("dvc.lock").write_text(LOCK.format(model=model, prepared=prepared, code=code, seed=seed))
    Path("reports/headline.json").write_text(json.dumps({"new": ndcg}))
    Path("reports/reference.json").write_text(json.dumps({"new/live/both": [ndcg, ndcg - 0.02, ndcg + 0.02]}))


def git(*arguments: str) -> str:
    command = ["git", "-c", "user.email=a@example.org", "-c", "user.name=a", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a committed run."""
    monkeypatch.chdir(tmp_path)
    Path(".gitignore").write_text("/.reproduction/\n")
    write_run("intel", 0.5)
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "a run")
    return tmp_path


def test_a_run_with_equal_bytes_changes_nothing(checkout: Path) -> None:
    result = compare_and_set_aside()
    assert result is not None and result.has_equal_bytes and result.is_exact
    assert not LOCAL.exists() and git("status", "--porcelain") == ""


def test_other_bytes_are_set_aside_and_put_in_place_for_the_next_run(checkout: Path) -> None:
    write_run("amd", 0.51, prepared="also other")
    assert git("status", "--porcelain")
    result = compare_and_set_aside()
    assert result is not None and not result.has_equal_bytes and result.is_within_noise
    assert "largest difference 0.010 (new/live/both), within the confidence interval" in result.describe(exact=False)
    assert git("status", "--porcelain") == "" and "intel" in Path("dvc.lock").read_text()
    use_local_files()
    assert (
        "amd" in Path("dvc.lock").read_text() and json.loads(Path("reports/headline.json").read_text())["new"] == 0.51
    )
    assert compare_and_set_aside() == result and git("status", "--porcelain") == ""


def test_a_figure_outside_the_noise_is_named(checkout: Path) -> None:
    write_run("wrong", 0.4)
    result = compare_and_set_aside()
    assert result is not None and not result.is_within_noise and not result.is_exact
    described = result.describe(exact=False)
    assert "NOT reproduced" in described and "new/live/both 0.4000, committed 0.5000" in described
    assert git("status", "--porcelain") == ""


@pytest.mark.parametrize("change", [{"code": "other"}, {"seed": 1}])
def test_a_run_with_other_code_or_settings_stays_in_place_to_be_committed(
    checkout: Path, change: dict[str, str]
) -> None:
    write_run("other", 0.6, **change)  # type: ignore[arg-type]
    assert compare_and_set_aside() is None
    assert "dvc.lock" in git("status", "--porcelain") and not LOCAL.exists()


def test_files_of_an_earlier_commit_are_not_used(checkout: Path) -> None:
    write_run("amd", 0.51)
    compare_and_set_aside()
    write_run("intel", 0.7, code="newer")
    git("commit", "-qam", "other code")
    use_local_files()
    assert not LOCAL.exists() and git("status", "--porcelain") == ""


def test_a_run_by_hand_is_not_overwritten(checkout: Path) -> None:
    write_run("amd", 0.51)
    compare_and_set_aside()
    write_run("by hand", 0.52, seed=7)
    use_local_files()
    assert "by hand" in Path("dvc.lock").read_text()


def test_without_a_commit_there_is_nothing_to_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_run("intel", 0.5)
    use_local_files()
    assert compare_and_set_aside() is None and Path("dvc.lock").is_file()


def test_the_noise_of_seeds_holds_only_for_the_log_on_which_it_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduction.layout, "SAMPLE", tmp_path)
    (tmp_path / "seed_noise.json").write_text(
        json.dumps({"log": "log", "figures": {"new/live/both": {"deviation": 0.001}}})
    )
    lock = reproduction.parse_lock(LOCK.format(model="m", prepared="p", code="c", seed=0).encode())
    assert reproduction.seed_noise(lock) == ({"new/live/both": 0.001}, "the noise of seeds")
    lock["stages"]["validate"]["deps"][0]["md5"] = "another log"
    assert reproduction.seed_noise(lock)[0] == {}


def test_the_message_names_the_processor(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: AMD EPYC 9B14 96-Core Processor\n")
    assert processor_name(cpuinfo) == "AMD EPYC 9B14"
    cpuinfo.write_text("model name\t: Intel(R) Xeon(R) Processor @ 2.10GHz\n")
    assert processor_name(cpuinfo) == "Intel Xeon"
    difference = FigureDifference("new/live/both", 0.5, 0.5, 0.01)
    assert processor_name() in Reproduction(False, [difference], "the noise of seeds", True).describe(exact=True)


def test_other_bytes_are_a_difference_where_equal_bytes_are_promised(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name\t: AMD EPYC 9B14 96-Core Processor\nflags\t\t: fpu avx avx2 fma\n")
    assert promises_equal_bytes(cpuinfo) == (platform.machine() == "x86_64" and sys.platform == "linux")
    cpuinfo.write_text("model name\t: AMD Phenom\nflags\t\t: fpu sse2\n")
    assert not promises_equal_bytes(cpuinfo)
    difference = FigureDifference("new/live/both", 0.5, 0.501, 0.01)
    promised, elsewhere = (Reproduction(False, [difference], "the noise of seeds", is_x86) for is_x86 in (True, False))
    assert (promised.is_exact, elsewhere.is_exact) == (False, True)
    assert promised.describe(exact=True).startswith("NOT reproduced")
    assert promised.describe(exact=False).startswith("reproduced") and "should be equal" in promised.describe(
        exact=False
    )
    assert elsewhere.describe(exact=True).startswith("reproduced")


def test_bytes_are_equal_if_the_outputs_are_whatever_the_code() -> None:
    one, other = (reproduction.parse_lock(LOCK.format(model="m", prepared="p", code=c, seed=0).encode()) for c in "ab")
    assert reproduction.have_equal_outputs(one, other) and not reproduction.have_equal_inputs(one, other)
    third = reproduction.parse_lock(LOCK.format(model="n", prepared="p", code="a", seed=0).encode())
    assert not reproduction.have_equal_outputs(one, third)
