"""The Data Docs and the page of `dvc plots show` need no other server, and show what they are for."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import polars as pl
import pytest

from befriend.data.columns import ACTION, ACTOR, REASON, TARGET, TIMESTAMP
from befriend.readers.data_settings import DataSettings
from befriend.validation.expectations import check_log, profile_rules
from befriend.validation.validate_settings import ValidateSettings
from tests.conftest import ROOT

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.system
ROWS = pl.DataFrame(
    {ACTOR: ["1", None], ACTION: ["a", "<script>x</script>"], TARGET: ["2", "1"], TIMESTAMP: [1, 2], REASON: [None, "actor_id"]}
)
SETTINGS = ValidateSettings()
VALUES = {rule.name: 0.125 for rule in profile_rules(SETTINGS)} | {"rows_read": 2.0, "days": 181.25}


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Data Docs of two rows, one of which has a field missing and an action that is not listed."""
    folder = tmp_path_factory.mktemp("checked") / "docs"
    check_log(ROWS, VALUES, DataSettings(actions=["a"]), SETTINGS, folder)
    return folder


def pages(docs: Path) -> dict[Path, str]:
    return {path: path.read_text() for path in docs.rglob("*.html")}


def results_page(docs: Path, suite: str) -> str:
    (path,) = (docs / "validations" / suite).rglob("*.html")
    return path.read_text()


def test_data_docs_refer_only_to_their_own_pages(docs: Path) -> None:
    assert {path.suffix for path in docs.rglob("*") if path.is_file()} == {".html"}
    assert len(pages(docs)) == 5  # the index; suite and results of raw rows and of profile values
    for path, page in pages(docs).items():
        assert "<script src" not in page and "@import" not in page and "url(" not in page
        assert "default-src 'none'" in page  # so a script in a value of the log does not run
        for link in re.findall(r'(?:href|src)="([^"]*)"', page):
            if not link.startswith(("data:", "#")):
                assert (path.parent / unquote(html.unescape(link))).is_file(), link


def test_data_docs_show_limit_and_value_of_each_rule(docs: Path) -> None:
    page = results_page(docs, "profile values")
    for rule in profile_rules(SETTINGS):
        section = page.split(f">\n                    {rule.name}\n", 1)[1].split('class="ge-section', 1)[0]
        assert rule.limit in section
        assert f">{VALUES[rule.name]:g}<" in section
    assert "0% unexpected" not in page
    assert "50% not null" in results_page(docs, "raw rows")


def test_run_in_the_data_docs_is_named_after_the_log(docs: Path, tmp_path: Path) -> None:
    def run_names(folder: Path) -> set[str]:
        return {path.name for path in folder.glob("validations/*/*")}

    (name,) = run_names(docs)
    assert name.endswith(", 2 rows") and name in (docs / "index.html").read_text()
    assert "None" not in results_page(docs, "profile values").split("Statistics")[0]
    check_log(ROWS, VALUES, DataSettings(), SETTINGS, tmp_path / "same")
    check_log(ROWS, VALUES | {"days": 1.0}, DataSettings(), SETTINGS, tmp_path / "other")
    assert run_names(tmp_path / "same") == {name} != run_names(tmp_path / "other")


@pytest.mark.skipif(not CHROMIUM, reason="needs Debian's package chromium")
@pytest.mark.parametrize("has_library", [True, False])
def test_dvc_draws_plots_with_the_library_that_stage_validate_writes(has_library: bool, tmp_path: Path) -> None:
    from befriend.validation.validation_report import LIBRARY, write_library

    dvc = str(Path(sys.executable).with_name("dvc"))
    reports = tmp_path / "reports" / "validation"
    reports.mkdir(parents=True)
    for command in (["git", "init", "-q"], [dvc, "init", "-q"]):
        subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    for name in ("config", "plots.html"):
        shutil.copy(ROOT / ".dvc" / name, tmp_path / ".dvc" / name)
    (tmp_path / "months.csv").write_text("month,events\n2024-01,5\n2024-02,7\n")
    plot = {"months.csv": "month"}
    (tmp_path / "dvc.yaml").write_text(f"plots:\n  - events: {{template: bar_horizontal, x: events, y: {plot}}}\n")
    if has_library:
        write_library(reports / LIBRARY)
    subprocess.run([dvc, "plots", "show"], cwd=tmp_path, check=True, timeout=60, capture_output=True)
    page = tmp_path / "dvc_plots" / "index.html"
    assert re.findall(r'(?:href|src)="([^"]*)"', page.read_text()) == ["data:,", "../reports/validation/vega.js"]
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", f"--user-data-dir={tmp_path}/c"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom"]
    done = subprocess.run([str(CHROMIUM), *options, page.as_uri()], capture_output=True, text=True, timeout=120)
    drawn = done.stdout.split("<body>")[1]
    if has_library:
        assert "<canvas" in drawn or "<svg" in drawn
    else:
        assert "Run: dvc repro validate" in drawn
