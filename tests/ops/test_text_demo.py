"""`befriend text demo` says how long it takes, shows what it does, and ends with the report and plain paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from befriend import files
from befriend.ops.text_demo import FIGURES, MAP, REPORT, demo, duration
from befriend.simulate.network import write
from befriend.simulate.network_settings import SimulateSettings


def test_duration_is_in_minutes_or_in_tens_of_seconds() -> None:
    assert [duration(seconds) for seconds in (0.4, 44, 89, 90, 472)] == [
        "10 seconds", "40 seconds", "90 seconds", "2 minutes", "8 minutes",
    ]  # fmt: skip


@pytest.mark.system
@pytest.mark.usefixtures("pictures")
def test_demo_tells_its_duration_first_and_ends_with_plain_paths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(SimulateSettings(users=80, events=1500, seed=1, texts=2.0), tmp_path / "log")
    out = tmp_path / "demo"
    demo(tmp_path / "log", out, tmp_path / "cache", seed=0)
    printed = capsys.readouterr()
    notes = printed.err.splitlines()
    assert notes[0].startswith("79 users with 119 different texts, and 50 statements")
    assert notes[1].startswith("Encoding the texts and training for at most 10 epochs takes about ")
    steps = ["The texts are encoded. Training:", "Comparing the towers with simple methods, on users who are not in training"]
    assert [line for line in notes if line in steps] == steps
    assert "epoch 1 of 10" in printed.err + printed.out

    report = (out / REPORT).read_text()
    assert report.endswith(f"![users by what they wrote]({MAP})\n")
    assert "![" not in printed.out and report.splitlines()[0] in printed.out
    last_lines = [f"Report: {out / REPORT}", f"Map of the test users: {out / MAP}", f"Towers: {out / 'towers'}"]
    assert printed.out.splitlines()[-3:] == last_lines
    assert (out / MAP).read_bytes().startswith(b"\x89PNG")
    methods = files.read_json(out / FIGURES)
    assert methods.keys() == {"trained", "TF-IDF", "mean of the frozen encoder", "popularity"}
    assert methods["trained"]["retrieval mrr"] > methods["popularity"]["retrieval mrr"]
