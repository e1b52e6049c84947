"""The page in a real browser: Debian's chromium, driven by Playwright, where both are installed."""

import asyncio
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from PIL import Image
from web_runs import MARKUP, huge_png, write_served_run

from alexnet.results.classifier import Classifier
from alexnet.web.app import build_app
from alexnet.web.guard import AccessRules
from alexnet.web.served_run import ServedRun
from alexnet.web.service import Service

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
TOKEN = "a-token"


@dataclass(frozen=True)
class Served:
    """A run that is served: its folder and the address of its page."""

    run: Path
    url: str


@pytest.fixture(scope="module")
def served(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of a run, one of whose classes has markup as its name; it needs a token."""
    run = write_served_run(tmp_path_factory.mktemp("served") / "birds", store)
    app = build_app(Service(ServedRun(run, "cpu")), AccessRules({"localhost"}, TOKEN))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not server.started:
        thread.join(0.05)
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Served(run, f"http://127.0.0.1:{port}/")
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser with a camera that shows a drawn picture."""
    arguments = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, served: Served) -> Iterator[Any]:
    """The page, as a phone shows it; no dialog opens, no script fails, and no policy is broken."""
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme="dark")
    opened = context.new_page()
    opened.set_default_timeout(20_000)
    opened.on("dialog", lambda dialog: complaints.append(dialog.message))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    # Chromium itself notes each answer of 400 or more on the console; what we answer so is expected.
    opened.on("console", lambda line: complaints.append(line.text) if "the server responded" not in line.text else None)
    opened.goto(f"{served.url}#token={TOKEN}")
    opened.get_by_role("button", name="Choose a file").wait_for()
    yield opened
    context.close()
    assert complaints == []


def choose(page: Any, *files: Any) -> None:
    """Choose a file with the button, as a person does."""
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a file").click()
    chooser.value.set_files(*files)


def test_a_picture_is_sent_and_its_labels_are_shown(page: Any, served: Served, picture_folder: Path) -> None:
    photograph = min(picture_folder.glob("red disc/*.jpg"))
    expected = Classifier.load(served.run, device="cpu").predict(photograph)
    assert MARKUP in [name for name, _ in expected]
    choose(page, photograph)
    page.get_by_role("heading", name="Most probable classes").wait_for()
    assert page.locator("#labels .name").all_inner_texts() == [name for name, _ in expected]  # markup is text
    assert page.locator("#labels img").count() == 0
    assert page.locator("#labels .share").first.inner_text() == f"{100 * expected[0][1]:.0f} %"
    assert page.get_by_role("status").first.inner_text().startswith(f"{photograph.name}: {expected[0][0]}, ")
    page.get_by_text("What each view says").click()
    assert page.locator("#views tr").count() == 10
    page.get_by_text("Nearest training pictures").press("Enter")
    page.get_by_text("build it with alexnet index RUN STORE").wait_for()
    page.get_by_text("Why: the pixels").press("Enter")
    page.get_by_label("Class", exact=True).select_option(MARKUP)
    page.get_by_role("img", name=f"Map of what speaks for {MARKUP}").wait_for()
    page.get_by_text("What the layers make of it").click()
    page.get_by_label("Layer", exact=True).select_option("conv2")
    page.get_by_text("8 maps of ").wait_for()
    page.locator("#kernels-title").click()
    page.get_by_role("img", name="The kernels of GPU 2").wait_for()
    assert "3 of at most 5 epochs are done" in page.locator("#curves-text").inner_text()
    assert page.locator("#curves svg path").count() == 6
    for width in (320, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_what_is_no_picture_is_refused_kindly(page: Any, tmp_path: Path, picture_folder: Path) -> None:
    (tmp_path / "notes.txt").write_text("only text")
    alert = page.get_by_role("alert")
    for file, problem in [
        (tmp_path / "notes.txt", "notes.txt: not a readable picture: in an unknown format: save it in one of JPEG,"),
        ({"name": f"{MARKUP}.png", "mimeType": "image/png", "buffer": huge_png()}, f"{MARKUP}.png: not a readable"),
    ]:
        choose(page, file)
        alert.filter(has_text=problem).wait_for()
        assert "\n" not in alert.inner_text()
        assert page.locator("#result").is_hidden()
    choose(page, min(picture_folder.glob("*/*.png")))
    page.get_by_role("heading", name="Most probable classes").wait_for()
    assert alert.inner_text() == ""


def test_a_picture_is_dropped_pasted_or_photographed(page: Any, picture_folder: Path, tmp_path: Path) -> None:
    Image.open(min(picture_folder.glob("*/*.png"))).save(tmp_path / "x.png")
    give = """async ([bytes, kind]) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(bytes)], kind + ".png", {type: "image/png"}));
        const options = {bubbles: true, dataTransfer: transfer, clipboardData: transfer};
        document.body.dispatchEvent(kind === "drop" ? new DragEvent(kind, options) : new ClipboardEvent(kind, options));
    }"""
    for kind in ("drop", "paste"):
        page.evaluate(give, [list((tmp_path / "x.png").read_bytes()), kind])
        page.locator("#picture-name", has_text=f"{kind}.png").wait_for()
    page.get_by_role("button", name="Take a photograph").click()
    page.get_by_role("button", name="Take it").click()
    page.locator("#picture-name", has_text="photograph.jpg").wait_for()
    assert page.get_by_role("alert").inner_text() == ""


def test_without_the_token_the_page_asks_for_it(browser: Any, served: Served) -> None:
    page = browser.new_page()
    page.goto(served.url)
    field = page.get_by_label("The token that alexnet serve has printed")
    field.fill("wrong")
    field.press("Enter")
    field.fill(TOKEN)
    field.press("Enter")
    page.get_by_role("button", name="Choose a file").wait_for()
    assert field.is_hidden()
    page.goto(f"{served.url}docs")
    page.get_by_role("heading", name="POST /api/predict").wait_for()
    page.get_by_role("heading", name="PredictResponse").wait_for()
    page.close()
