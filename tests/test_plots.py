"""Still pictures: written whole or not at all, the same bytes each time, without a cost for commands that draw none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from befriend.plots import DARK, LIGHT, group_colours, saved_figure

pytestmark = pytest.mark.usefixtures("pictures")


def draw(path: Path) -> None:
    with saved_figure(path, width=3, height=2) as figure:
        figure.subplots().plot([1, 2], label="series")


def test_equal_figures_are_equal_bytes(tmp_path: Path) -> None:
    draw(tmp_path / "first.png")
    draw(tmp_path / "second.png")
    content = (tmp_path / "first.png").read_bytes()
    assert content.startswith(b"\x89PNG") and content == (tmp_path / "second.png").read_bytes()


def test_a_failure_leaves_the_earlier_picture(tmp_path: Path) -> None:
    draw(tmp_path / "picture.png")
    before = (tmp_path / "picture.png").read_bytes()
    with pytest.raises(RuntimeError), saved_figure(tmp_path / "picture.png", width=1, height=1):
        raise RuntimeError
    assert (tmp_path / "picture.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_the_style_ends_with_the_block(tmp_path: Path) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    draw(tmp_path / "picture.png")
    assert dict(mpl.rcParams) == before


def test_importing_the_module_does_not_import_matplotlib() -> None:
    code = "import sys, befriend.plots; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_colours_of_series_and_groups_are_distinct() -> None:
    for palette in (LIGHT, DARK):
        assert len({*palette.series, palette.neutral}) == len(palette.series) + 1
    assert len(set(group_colours(100))) == 100
