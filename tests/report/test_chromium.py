"""The page in Chromium: no error, no network access, charts with marks, tables that sort, both themes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Debian's packages chromium and chromium-driver"),
]


@pytest.fixture(scope="module")
def browser(project: Path) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))
    try:
        resize(driver, 1280, "light")
        driver.get((project / "reports" / "report" / "index.html").as_uri())
        wait_until_drawn(driver, "light")
        yield driver
    finally:
        driver.quit()


def resize(browser: Any, width: int, theme: str) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def wait_until_drawn(browser: Any, theme: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 60).until(
        lambda b: b.execute_script("return document.documentElement.dataset.drawn") == theme
    )


def test_the_page_opens_without_errors_and_without_network_access(browser: Any) -> None:
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    messages = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert len(urls) >= 2  # the page, and latency.js
    assert [url for url in urls if not url.startswith(("file:", "data:", "blob:"))] == []


def test_every_chart_has_marks(browser: Any) -> None:
    counts = browser.execute_script("""
        return [...document.querySelectorAll(".chart")].map((chart) => [
            chart.dataset.name,
            chart.querySelectorAll(".mark-rect path, .mark-symbol path, .mark-line path, .mark-rule line").length,
        ])""")
    assert len(counts) > 30
    assert [name for name, marks in counts if marks < 2] == []
    assert dict(counts)["clusters_map"] >= 100  # all users of the log


def test_the_tooltip_of_a_mark_shows_its_metrics(browser: Any) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.support.ui import WebDriverWait

    bar = browser.find_element("css selector", '[data-name="headline_new_daily"] .mark-rect path')
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", bar)
    ActionChains(browser).move_to_element(bar).perform()
    tip = WebDriverWait(browser, 10).until(
        lambda b: b.execute_script("return document.querySelector('#vg-tooltip-element.visible')?.innerText")
    )
    assert "ndcg@10" in tip and "model" in tip


def test_tables_sort_by_value_and_by_name(browser: Any) -> None:
    browser.execute_script("document.querySelectorAll('details').forEach((part) => (part.open = true))")

    def column() -> list[float]:
        cells = browser.execute_script(
            "return [...document.querySelectorAll('#headline-any tbody tr')].map((row) => row.cells[1].dataset.value)"
        )
        return [float(value) for value in cells]

    head = browser.find_element("css selector", "#headline-any th:nth-child(2)")
    before = column()
    browser.execute_script("arguments[0].click()", head)
    assert column() == sorted(before, reverse=True)
    browser.execute_script("arguments[0].click()", head)
    assert column() == sorted(before)
    assert head.get_attribute("aria-sort") == "ascending"
    names = browser.find_element("css selector", "#headline-any th:nth-child(1)")
    browser.execute_script("arguments[0].click()", names)
    models = browser.execute_script(
        "return [...document.querySelectorAll('#headline-any tbody tr')].map((row) => row.cells[0].textContent)"
    )
    assert models == sorted(models)


def test_the_page_shows_the_latency_stored_outside_it(browser: Any, project: Path) -> None:
    rows = browser.execute_script(
        "return [...document.querySelectorAll('#latency tbody tr')].map((row) => row.cells[0].textContent)"
    )
    assert sorted(rows) == ["both", "stu", "two-tower"]
    assert browser.execute_script("return document.getElementById('latency-missing').hidden")


def test_the_button_and_the_system_switch_between_themes(browser: Any) -> None:
    def colours() -> tuple[str, str]:
        page = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        bar = '[data-name="headline_new_daily"] .mark-rect path'
        return page, browser.execute_script(f"return document.querySelector('{bar}').getAttribute('fill')")

    light = colours()
    resize(browser, 1280, "dark")
    wait_until_drawn(browser, "dark")
    dark = colours()
    assert light[0] != dark[0] and light[1] != dark[1]
    browser.execute_script("document.getElementById('theme').click()")
    wait_until_drawn(browser, "light")
    assert colours() == light
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_page_fits_the_width_of_a_phone(browser: Any) -> None:
    resize(browser, 390, "dark")
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    from selenium.webdriver.support.ui import WebDriverWait

    widest = "return Math.max(...[...document.querySelectorAll('.chart svg')].map((svg) => svg.getBoundingClientRect().width))"
    WebDriverWait(browser, 20).until(lambda b: 200 < b.execute_script(widest) <= 390)


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_in_the_opening_is_wider_than_its_box(browser: Any, width: int) -> None:
    resize(browser, width, "light")
    too_wide = browser.execute_script("""
        const inside = (inner, outer) => inner.left >= outer.left - 1 && inner.right <= outer.right + 1;
        return [...document.querySelectorAll(".opening .card")].flatMap((card) => {
            const box = card.getBoundingClientRect();
            return [...card.querySelectorAll("*")].filter((part) => !inside(part.getBoundingClientRect(), box))
                .map((part) => part.outerHTML.slice(0, 80));
        })""")
    assert too_wide == []


def test_the_first_screen_has_headline_verdict_figures_and_the_first_examples(browser: Any) -> None:
    resize(browser, 1280, "light")
    browser.execute_script("document.querySelectorAll('.opening details').forEach((part) => (part.open = false))")

    def box(selector: str) -> dict[str, float]:
        script = "return document.querySelector(arguments[0]).getBoundingClientRect().toJSON()"
        browser.execute_script("scrollTo({top: 0, behavior: 'instant'})")
        return browser.execute_script(script, selector)

    for selector in ("h1", ".answer", "#right", "#for-whom", "#verdict", ".example li b"):
        assert box(selector)["bottom"] <= 800, selector
    assert box("#right")["top"] == box("#for-whom")["top"] == box("#verdict")["top"]  # side by side
    resize(browser, 390, "light")
    for selector in ("h1", ".answer", "#right .figure"):
        assert box(selector)["bottom"] <= 844, selector


@pytest.mark.parametrize("width", [390, 1280])
def test_no_label_of_a_chart_touches_or_repeats_the_next_or_is_cut_off(browser: Any, width: int) -> None:
    resize(browser, width, "light")
    wait_until_drawn(browser, "light")
    from selenium.webdriver.support.ui import WebDriverWait

    fits = "return [...document.querySelectorAll('.chart')].every((c) => Math.abs(c.clientWidth - c.querySelector('svg').clientWidth) <= 2)"
    WebDriverWait(browser, 20).until(lambda b: b.execute_script(fits))
    collisions = browser.execute_script("""
        const gap = 3;  // pixels between the labels of one line
        const touches = (a, b) => a.left < b.right + gap && b.left < a.right + gap && a.top < b.bottom && b.top < a.bottom;
        const found = [];
        for (const chart of document.querySelectorAll(".chart")) {
            const frame = chart.querySelector("svg").getBoundingClientRect();
            for (const text of chart.querySelectorAll(".role-axis-title text, .role-legend text")) {
                const box = text.getBoundingClientRect();
                if (box.left < frame.left - 1 || box.right > frame.right + 1) found.push([chart.dataset.name, "cut", text.textContent]);
            }
            for (const axis of chart.querySelectorAll(".role-axis-label")) {
                const labels = [...axis.querySelectorAll("text")]
                    .filter((text) => text.textContent && text.getAttribute("opacity") !== "0" && !/rotate/.test(text.getAttribute("transform")))
                    .map((text) => [text.textContent, text.getBoundingClientRect()]);
                labels.forEach(([text, box], k) => {
                    if (box.left < frame.left - 1 || box.right > frame.right + 1) found.push([chart.dataset.name, "cut", text]);
                    for (const [other, otherBox] of labels.slice(k + 1)) {
                        if (text === other || touches(box, otherBox)) found.push([chart.dataset.name, text, other]);
                    }
                });
            }
        }
        return found;""")
    assert collisions == []
