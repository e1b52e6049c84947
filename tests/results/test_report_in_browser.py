"""The report in a real browser: Debian's chromium, driven by Playwright, where both are installed."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet.results.calibration import calibration_bins
from alexnet.results.confusion import confusion_matrix
from alexnet.results.report_html import ReportData, render_report
from alexnet.results.run_history import RunHistory
from alexnet.training.checkpoint import load_best
from alexnet.training.error_rates import ErrorRates

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
MARKUP = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def page_file(uninterrupted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of 40 classes, one of which has markup as its name."""
    random = np.random.default_rng(0)
    labels = np.arange(400) % 40
    predicted = np.where(random.random(400) < 0.6, labels, random.integers(0, 40, 400))
    classes = (MARKUP, *(f"class {number}" for number in range(1, 40)))
    data = ReportData(
        run="r",
        history=RunHistory.read(uninterrupted),
        checkpoint=replace(load_best(uninterrupted), classes=classes),
        split="val",
        chosen_on_split=True,
        results={1: ErrorRates(400, float((predicted != labels).mean()), 0.1, 2.0)},
        kernels=None,
        guesses=[],
        mistakes=[],
        explained=[],
        confusion=confusion_matrix(predicted, labels, 40),
        calibration=calibration_bins(random.dirichlet(np.ones(40), 400), labels),
    )
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_report(data), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser."""
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, page_file: Path) -> Iterator[Any]:
    """The report, opened in a browser; it must log nothing and open no dialog."""
    complaints: list[str] = []
    opened = browser.new_page()
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("dialog", lambda dialog: complaints.append(dialog.message))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(page_file.as_uri())
    yield opened
    opened.close()
    assert complaints == []


def shown_names(page: Any) -> list[str]:
    """Return the first cells of the rows that are shown."""
    rows = page.locator(".all-classes tbody tr:visible td:first-child")
    return [text.strip() for text in rows.all_inner_texts()]


def test_classes_are_found_and_sorted(page: Any) -> None:
    assert len(shown_names(page)) == 40
    page.get_by_label("Find").fill("CLASS 13")
    assert "class 13" in shown_names(page)
    assert len(shown_names(page)) < 40
    assert page.locator("output").inner_text().endswith("of 40 classes")
    page.get_by_label("Find").fill("onerror")
    assert MARKUP in shown_names(page)  # as text
    page.get_by_label("Find").fill("")
    names = page.get_by_role("button", name="class", exact=True)
    names.click()
    assert shown_names(page) == [MARKUP, *(f"class {number}" for number in range(1, 40))]
    names.press("Enter")  # by the keyboard, the other way round
    assert shown_names(page)[0] == "class 39"
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("class")
    page.get_by_role("button", name="error").click()
    errors = page.locator(".all-classes tbody td:nth-child(3)").all_inner_texts()
    assert [float(text.removesuffix(" %")) for text in errors] == sorted(
        (float(text.removesuffix(" %")) for text in errors), reverse=True
    )


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_page(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_label("full size").check()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
