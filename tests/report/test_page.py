"""The page and the model card show the results of the other stages; a second run gives the same bytes."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from befriend import files
from befriend.analysis.metric_tables import LEARNED
from befriend.data.regimes import REGIMES
from befriend.report.charts import make_charts
from befriend.report.plain_words import per_hundred
from befriend.report.run_results import RunResults
from befriend.stages import report
from tests.report.conftest import PARAMS

pytestmark = pytest.mark.system  # needs a run of every stage


class Page(HTMLParser):
    """A parsed page: tables by id, as rows of (value, text) cells; the JSON of scripts by id; all addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[tuple[str | None, str]]]] = {}
        self.data: dict[str, Any] = {}
        self._rows: list[list[tuple[str | None, str]]] = []
        self._value: str | None = None
        self._cell: list[str] | None = None
        self._script = ""
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.addresses += [value for name in ("src", "href") if (value := attributes.get(name))]
        if tag == "table":
            self._rows = self.tables.setdefault(attributes.get("id") or f"table {len(self.tables)}", [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._value, self._cell = attributes.get("data-value"), []
        elif tag == "script":
            self._script = attributes.get("id") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self._rows[-1].append((self._value, "".join(self._cell).strip()))
            self._cell = None
        elif tag == "script":
            self._script = ""

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)
        elif self._script:
            self.data[self._script] = json.loads(data)


@pytest.fixture(scope="module")
def page(project: Path) -> Page:
    return Page((project / "reports" / "report" / "index.html").read_text())


def test_headline_tables_show_the_metrics_of_all_models(page: Page, project: Path) -> None:
    metrics = files.read_json(project / "reports" / "metrics.json")
    for kind in ("new", "any"):
        head, *rows = page.tables[f"headline-{kind}"]
        assert len(head) == 1 + 3 * len(REGIMES)
        segment = {"new": "new", "any": "all"}[kind]
        assert {row[0][1] for row in rows} == set(metrics["streaming"][kind][segment])
        for row in rows:
            model_metrics = [metrics[regime][kind][segment][row[0][1]] for regime in REGIMES]
            expected = [m[name] for m in model_metrics for name in ("ndcg@10", "hit@10", "mrr@100")]
            assert [float(value or "nan") for value, _ in row[1:]] == expected
            for m, (_, text) in zip(model_metrics, row[1::3], strict=True):
                low, high = m["ndcg@10_low"], m["ndcg@10_high"]
                assert text == f"{m['ndcg@10']:.4f}{low:.4f} to {high:.4f}"


def test_headline_charts_show_the_metrics_of_the_best_models(page: Page, project: Path) -> None:
    metrics = files.read_json(project / "reports" / "metrics.json")
    for regime in REGIMES:
        (rows,) = page.data["specs"][f"headline_new_{regime}"]["datasets"].values()
        models = metrics[regime]["new"]["new"]
        assert [row["model"] for row in rows] == sorted(models, key=lambda m: (-models[m]["ndcg@10"], m))[:8]
        for row in rows:
            assert {name: row[name] for name in models[row["model"]]} == models[row["model"]]


def test_ndcg_on_the_page_follows_from_the_predicted_lists(page: Page, project: Path) -> None:
    """Recomputed from predictions and the log alone: NDCG@10 of `both` in each regime, list new."""
    events = pl.read_parquet(project / "prepared" / "events.parquet")
    ids = pl.read_parquet(project / "prepared" / "users.parquet")["user_id"]
    (row,) = (row for row in page.tables["headline-new"] if row[0][1] == "both")
    for regime, (value, _) in zip(REGIMES, row[1::3], strict=True):
        lists = pl.read_parquet(project / "reports" / "predictions" / "both" / f"{regime}.parquet").filter(list="new")
        gains = []
        for event, users in lists.select("event", "users").iter_rows():
            target = ids[events["target_id"][event]]
            rank = users.index(target) + 1 if target in users[:10] else math.inf
            gains.append(1 / math.log2(rank + 1))
        assert float(value or "nan") == pytest.approx(sum(gains) / len(gains), abs=1e-6)


def test_slices_newcomers_and_calibration_are_those_of_their_files(page: Page, project: Path) -> None:
    metrics = files.read_json(project / "reports" / "metrics.json")
    for kind, regime, n, model, model_ndcg, rule, rule_ndcg in page.tables["newcomers"][1:]:
        expected = metrics[regime[1]][kind[1]]["newcomers"]
        assert (float(n[0] or 0), float(model_ndcg[0] or 0)) == (expected[model[1]]["n"], expected[model[1]]["ndcg@10"])
        assert float(rule_ndcg[0] or 0) == expected[rule[1]]["ndcg@10"]
    slices = pl.read_csv(project / "reports" / "evaluation" / "slices.csv")
    rows = page.tables["slices-table"][1:]
    assert len(rows) > 60
    for kind, regime, by, name, n, both, *_ in rows:
        key = {"list": kind[1], "regime": regime[1], "by": by[1], "slice": name[1], "model": "both"}
        expected = slices.filter(**key).row(0, named=True)
        assert (float(n[0] or 0), float(both[0] or 0)) == (expected["n"], expected["ndcg@10"])
    calibration = files.read_json(project / "reports" / "calibration.json")
    for kind, regime, model, *cells in page.tables["calibration"][1:]:
        expected = calibration[regime[1]][kind[1]][model[1]]
        assert [float(value or 0) for value, _ in cells] == [
            expected[k] for k in ("lists", "predicted", "observed", "error")
        ]


def test_the_page_refers_to_nothing_on_a_network(page: Page) -> None:
    for address in page.addresses:
        assert address.startswith("#") or address in ("data:,", "../../runs/latency.js")
    for spec in page.data["specs"].values():
        assert "url" not in json.dumps(spec["datasets"])


def test_example_lists_have_reasons_and_no_existing_contacts(page: Page, project: Path) -> None:
    text = (project / "reports" / "report" / "index.html").read_text()
    examples = re.findall(r"<h3>For user (\d+) (.*?)</article>", text, re.S)
    assert len(examples) == PARAMS.report.examples
    events = pl.read_parquet(project / "prepared" / "events.parquet").filter(pl.col("role") == "contact")
    ids = pl.read_parquet(project / "prepared" / "users.parquet")["user_id"]
    for user_id, html in examples:
        user = ids.to_list().index(int(user_id))
        contacts = pl.concat(
            [events.filter(actor_id=user)["target_id"], events.filter(target_id=user)["actor_id"]]
        ).cast(pl.Int64)
        recommended = [int(recommended_id) for recommended_id in re.findall(r"<li><b>(\d+)</b><small>", html)]
        assert len(recommended) == PARAMS.report.people
        assert not set(recommended) & set(ids.gather(contacts).to_list())


def test_the_opening_has_the_hit_rates_of_the_metrics(page: Page, project: Path) -> None:
    """Hit@10 of `both` and of the best rule, from metrics.json; of each group, from slices.csv."""
    text = (project / "reports" / "report" / "index.html").read_text()
    opening = text[text.index('id="overview"') : text.index('id="contents"')]
    metrics = files.read_json(project / "reports" / "metrics.json")
    slices = pl.read_csv(project / "reports" / "evaluation" / "slices.csv").filter(list="new", model="both")
    for regime, adjective in (("daily", "nightly"), ("live", "live")):
        models = metrics[regime]["new"]["new"]
        best_rule = max(m["hit@10"] for name, m in models.items() if name not in LEARNED)
        card = opening.split(f"of 100 {adjective} lists <small>")[1].split("</table>")[0]
        assert re.findall(r'<td class="number">(.*?)</td>', card)[:2] == [
            per_hundred(models["both"]["hit@10"]),
            per_hundred(best_rule),
        ]
        (row,) = (row for row in page.tables["hits"] if row[0][1] == regime)
        assert [float(row[k][0] or "nan") for k in (1, 2, 4)] == pytest.approx(
            [models["both"]["n"], models["both"]["hit@10"], best_rule], abs=1e-6
        )
        column = 1 + ("nightly", "live").index(adjective)
        groups = {row[0][1]: row[column][1] for row in page.tables["user-groups"][1:]}
        newcomers = slices.filter(regime=regime, by="actor", slice="unseen in training").row(0, named=True)
        few = slices.filter(pl.col("slice").is_in(["1-4", "5-19"]), regime=regime, by="events of the actor")
        for label, n, share in (
            ("Newcomersjoined after training", newcomers["n"], newcomers["hit@10"]),
            ("Few events1 to 19 so far", few["n"].sum(), (few["n"] * few["hit@10"]).sum() / few["n"].sum()),
        ):
            assert groups[label].startswith(f"{per_hundred(share)} ") and f"n = {n:,}" in groups[label]


def test_hits_by_group_are_those_of_the_slices(page: Page, project: Path) -> None:
    slices = pl.read_csv(project / "reports" / "evaluation" / "slices.csv").filter(list="new", by="actor")
    newcomers = [row for row in page.tables["group-hits"][1:] if row[1][1] == "newcomers" and row[2][0] != "0"]
    assert newcomers
    for regime, _, n, both, rule, rule_hits in newcomers:
        expected = slices.filter(regime=regime[1], slice="unseen in training")
        for model, (value, _) in (("both", both), (rule[1], rule_hits)):
            row = expected.row(by_predicate=pl.col("model") == model, named=True)
            assert (float(n[0] or 0), float(value or 0)) == (row["n"], row["hit@10"])


def test_every_link_within_the_page_has_a_target(page: Page, project: Path) -> None:
    text = (project / "reports" / "report" / "index.html").read_text()
    anchors = {address[1:] for address in page.addresses if address.startswith("#")}
    assert {"term-ndcg", "term-stu", "term-regime", "overview", "settings"} <= anchors
    assert anchors - set(re.findall(r' id="([^"]+)"', text)) == set()


def test_the_opening_needs_no_script_and_no_term_of_the_field(project: Path) -> None:
    text = (project / "reports" / "report" / "index.html").read_text()
    opening = text[text.index('id="overview"') : text.index('id="contents"')]
    assert "<script" not in opening and 'class="chart"' not in opening
    assert re.findall(r"NDCG|STU|regime|recall|embedding|adamic|two-tower|@10", opening) == []


def test_charts_of_slices_say_how_many_events_each_slice_has(page: Page, project: Path) -> None:
    slices = pl.read_csv(project / "reports" / "evaluation" / "slices.csv")
    (rows,) = page.data["specs"]["activity_daily"]["datasets"].values()
    expected = slices.filter(list="new", regime="daily", by="events of the actor", model="both")
    assert {row["label"] for row in rows} == {
        f"{name}|n = {n:,}" for name, n in expected.select("slice", "n").iter_rows()
    }
    curve = pl.read_csv(project / "reports" / "clusters" / "curve.csv")
    text = (project / "reports" / "report" / "index.html").read_text()
    assert f"Recall by size of the search space, {curve['n'][0]} first contacts</figcaption>" in text


def test_settings_that_differ_from_their_defaults_are_listed_first(project: Path) -> None:
    text = (project / "reports" / "report" / "index.html").read_text()
    changed = text.split("Settings that differ")[1].split("<details>")[0]
    assert '<code>evaluate.events</code></td><td class="best">40</td><td>3000</td>' in changed
    assert "evaluate.confidence" not in changed


def test_the_model_card_shows_metrics_and_fairness(project: Path) -> None:
    card = (project / "reports" / "report" / "model_card.md").read_text()
    metrics = files.read_json(project / "reports" / "metrics.json")
    both = metrics["daily"]["new"]["new"]["both"]
    assert f"{both['ndcg@10']:.4f} ({both['ndcg@10_low']:.4f} to {both['ndcg@10_high']:.4f})" in card
    for group in ("seen in training", "unseen in training", "5-19 events so far"):
        assert f"| daily | {group} |" in card
    shown = pl.read_csv(project / "reports" / "evaluation" / "shown.csv").filter(
        model="both", regime="frozen", by="joined"
    )
    for row in shown.iter_rows(named=True):
        assert f"| {row['candidates']:.1%} | {row['contacted']:.1%} | {row['shown']:.1%} |" in card


def test_every_chart_is_valid_vega_lite(project: Path) -> None:
    for chart in make_charts(RunResults.read(project, PARAMS)):
        assert chart.chart.to_dict(validate=True) == chart.spec


def test_each_chart_is_also_an_svg_file(page: Page, project: Path) -> None:
    sizes = {path.stem: path.stat().st_size for path in (project / "reports" / "report" / "figures").iterdir()}
    assert sizes.keys() == page.data["specs"].keys()
    assert min(sizes.values()) > 5_000


def test_a_second_run_gives_the_same_bytes_whatever_the_latency(project: Path) -> None:
    def digests() -> dict[str, str]:
        paths = (path for path in (project / "reports" / "report").rglob("*") if path.is_file())
        return {str(path.relative_to(project)): files.sha256(path) for path in paths}

    before = digests()
    path, latency_script = project / "runs" / "evaluate.json", project / "runs" / "latency.js"
    record, latency_before = files.read_json(path), latency_script.read_text()
    files.write_json(path, record | {"latency": {"both": {"p50": 1, "p95": 2, "p99": 3}}})
    report.run(PARAMS, project)
    assert digests() == before
    assert '"p95": 2' in latency_script.read_text()
    files.write_json(path, record)
    files.write_text(latency_script, latency_before)  # other tests use the same project
    assert sum(path.stat().st_size for path in (project / "reports" / "report").glob("*.html")) < 6e6
