"""The HTTP interface: its answers are those of the command line, and bad uploads are refused with the same line."""

import base64
import io
import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from metrics_lines import START, epoch, step, write_run
from PIL import Image
from web_runs import CLASS_NAMES, huge_png, new_client, write_checkpoint

from alexnet.cli import main
from alexnet.data.prepare.decode import read_image
from alexnet.data.store.store import Store
from alexnet.models.alexnet import AlexNet
from alexnet.results.attribution import occlusion_map
from alexnet.results.classifier import Classifier
from alexnet.results.figures import kernel_tiles
from alexnet.results.retrieval import build_index
from alexnet.web import served_run as served_run_module
from alexnet.web.images import activity_tiles
from alexnet.web.served_run import ServedRun
from alexnet.web.service import Service


@pytest.fixture(scope="module")
def photograph(picture_folder: Path) -> Path:
    """The file of a picture."""
    return min(picture_folder.glob("red disc/*.jpg"))


def decoded(uri: str) -> np.ndarray:
    """Return the pixels of a data URI."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def send(client: TestClient, data: bytes, query: str = "") -> str:
    """Send a picture and return its name in further requests."""
    answer = client.post(f"/api/predict{query}", content=data)
    assert answer.status_code == 200, answer.text
    name: str = answer.json()["id"]
    return name


@pytest.mark.parametrize("views", [None, 1, 9, 10])
def test_the_predictions_are_those_of_the_command_line(
    client: TestClient, served_run: Path, photograph: Path, views: int | None
) -> None:
    query = "?top=2" + (f"&views={views}" if views else "")
    answer = client.post(f"/api/predict{query}", content=photograph.read_bytes()).json()
    expected = Classifier.load(served_run, device="cpu").predict(photograph, top=2, views=views)
    guesses = answer["predictions"]
    assert [guess["class"] for guess in guesses] == [name for name, _ in expected]
    assert [guess["probability"] for guess in guesses] == pytest.approx([p for _, p in expected], abs=1e-5)
    assert len(answer["views"]) == (views or 10)
    assert len({view["name"] for view in answer["views"]}) == len(answer["views"])
    first = guesses[0]["class"]
    assert answer["agreeing_views"] == sum(view["class"] == first for view in answer["views"])
    if views == 1:
        assert answer["views"][0]["name"] == "centre"
        assert answer["views"][0]["probability"] == pytest.approx(expected[0][1], abs=1e-5)
    if views in (9, 10):
        corner = next(view for view in answer["views"] if view["name"] == "bottom right")
        assert (corner["top"], corner["left"], corner["reflected"]) == (8, 8, False)  # of 32 - 24 pixels


@pytest.mark.parametrize(
    ("contents", "status"),
    [
        (b"only text", 422),
        (huge_png(), 422),
        (b"", 400),
        (b"\x89PNG\r\n\x1a\nbroken", 422),
        (b"\x1f\x8b gzip", 422),
    ],
    ids=["text", "65535x65535", "empty", "broken", "gzip"],
)
def test_a_bad_upload_is_refused_with_the_line_of_the_command(
    client: TestClient,
    served_run: Path,
    tmp_path: Path,
    contents: bytes,
    status: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "bad.jpg").write_bytes(contents)
    assert main(["predict", str(served_run), str(tmp_path / "bad.jpg")]) == 2
    line = capsys.readouterr().err.strip().removeprefix(f"alexnet: {tmp_path}/")
    answer = client.post("/api/predict?name=bad.jpg", content=contents)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    if status == 422:
        assert answer.json()["error"] == line
        assert client.post("/api/predict", content=contents).json()["error"] == line.removeprefix("bad.jpg: ")


def test_a_photograph_that_is_cut_off_is_refused(client: TestClient, photograph: Path) -> None:
    answer = client.post("/api/predict?name=a%0A%20b.jpg", content=photograph.read_bytes()[:-400])
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("a b.jpg: not a readable picture: ")


def test_too_many_bytes_and_other_bodies_are_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def parts() -> Iterator[bytes]:  # without a length in the header
        for _ in range(11):
            yield bytes(10_000)

    monkeypatch.setattr(client.app.state.service.uploads, "_max_bytes", 100_000)  # type: ignore[attr-defined]
    for body in (bytes(100_001), parts()):
        answer = client.post("/api/predict", content=body)
        assert (answer.status_code, "must have at most" in answer.json()["error"]) == (413, True)
    answer = client.post("/api/predict", files={"picture": b"x"})
    assert (answer.status_code, "--data-binary" in answer.json()["error"]) == (415, True)
    assert client.app.state.service.uploads._bytes_in_hand == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/api/predict?views=3", 422, "views: Input should be '1', '9' or '10'; got '3'"),
        ("/api/predict?top=0", 422, "top: Input should be greater than or equal to 1; got '0'"),
        ("/none", 404, "there is no such page"),
        ("/static/../app.py", 404, "there is no such page"),
        ("/static/%2e%2e%2fapp.py", 404, "there is no such page"),
        ("/api/run", 405, "this page does not know the request's method"),
    ],
)
def test_a_wrong_request_is_answered_with_one_line(client: TestClient, path: str, status: int, message: str) -> None:
    answer = client.post(path, content=b"x") if path.startswith("/api") else client.get(path)
    assert (answer.status_code, answer.json()) == (status, {"error": message})


def test_the_picture_and_what_layers_make_of_it(client: TestClient, served_run: Path, photograph: Path) -> None:
    name = send(client, photograph.read_bytes())
    shown = client.get(f"/api/pictures/{name}").json()
    square = read_image(photograph, 32)
    assert shown["side"] == 32
    assert np.abs(decoded(shown["picture"]).astype(int) - square).mean() < 12  # a JPEG of noise
    net = AlexNet.from_run(served_run)
    outputs: dict[str, torch.Tensor] = {}
    for layer, module in (("conv1", net.convs["conv1"]), ("conv3", net.convs["conv3"]), ("fc8", net.fc8)):
        module.register_forward_hook(lambda _, __, output, layer=layer: outputs.__setitem__(layer, output))
    mean = Classifier.load(served_run, device="cpu").mean
    pixels = square.transpose(2, 0, 1).astype(np.float32) - mean
    with torch.inference_mode():
        net(torch.from_numpy(pixels[None, :, 4:28, 4:28].copy()))
    for layer, output in outputs.items():
        expected = output[0].numpy()
        answer = client.get(f"/api/pictures/{name}/layers/{layer}").json()
        assert (answer["maps"], answer["rows"]) == (len(expected), expected.shape[1] if expected.ndim == 3 else 1)
        assert answer["active"] == pytest.approx((expected > 0).mean(), abs=1e-6)
        difference = decoded(answer["picture"]).astype(int) - activity_tiles(expected)
        assert np.abs(difference).max() <= 1
    answer = client.get(f"/api/pictures/{name}/layers/conv9")
    assert answer.status_code == 404
    assert answer.json()["error"].startswith("the layer must be one of conv1, conv2, ")
    assert client.get("/api/pictures/other").status_code == 404


def test_a_map_is_that_of_the_library(
    client: TestClient, served_run: Path, photograph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"/api/pictures/{send(client, photograph.read_bytes())}/map"
    values = occlusion_map(Classifier.load(served_run, device="cpu"), read_image(photograph, 32), "red disc")
    for method in ("occlusion", "gradient"):
        answer = client.get(url, params={"class": "red disc", "method": method}).json()
        assert (answer["class"], answer["method"], answer["side"]) == ("red disc", method, 24)
        assert answer["strongest"] == pytest.approx(values.max(), rel=1e-3)
        assert values[answer["row"], answer["column"]] == pytest.approx(values.max(), rel=1e-3)
        assert decoded(answer["picture"]).shape == (24, 24, 3)
        values = -values  # for the gradient, whose kernels take seconds to compile
        monkeypatch.setitem(served_run_module.MAPS, "gradient", partial(lambda result, *_: result, values))
    unknown = client.get(url, params={"class": "owl"})
    assert (unknown.status_code, unknown.json()["error"].startswith("label must be one of")) == (404, True)


def test_activities_are_drawn_map_by_map() -> None:
    maps = np.zeros((3, 2, 2), np.float32)
    maps[2, 1, 0] = 5
    tiles = activity_tiles(maps)
    assert tiles.shape == (5, 5, 2)  # two in a row, a pixel between them
    assert [tuple(index) for index in np.argwhere(tiles[..., 0])] == [(4, 0)]
    assert tiles[..., 1].sum() == 255 * 3 * 4
    assert activity_tiles(np.arange(-3.0, 7.0)).shape == (3, 4, 2)


def test_nearest_training_pictures(
    served_run: Path, store: Path, photograph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet.results.binary_codes.STEPS", 2)  # the codes are not used here
    run = shutil.copytree(served_run, tmp_path / "run")
    train = Store(store).split("train")
    file = io.BytesIO()
    Image.fromarray(train.image(7)).save(file, format="png")
    with new_client(run) as client:
        missing = client.get(f"/api/pictures/{send(client, photograph.read_bytes())}/similar")
        assert missing.status_code == 404
        assert missing.json()["error"].endswith("build it with alexnet index RUN STORE")
        build_index(run, store, bits=8, progress=False)
        assert client.get("/api/run").json()["has_index"] is True
        name = send(client, file.getvalue())
        similar = client.get(f"/api/pictures/{name}/similar").json()["similar"]
        assert len(similar) == 6
        assert [near["distance"] for near in similar] == sorted(near["distance"] for near in similar)
        assert similar[0]["image"] == train.picture_name(7)
        assert similar[0]["distance"] == pytest.approx(0, abs=1e-3)
        shown = decoded(similar[0]["picture"]).astype(int)
        assert np.argmin([np.abs(shown - train.image(row)).mean() for row in range(len(train))]) == 7
        write_checkpoint(run, store, steps=20, seed=1)
        client.app.state.service.run._looked = -1e9  # type: ignore[attr-defined]
        answer = client.get(f"/api/pictures/{name}/similar")
        assert (answer.status_code, "build it again" in answer.json()["error"]) == (404, True)


def test_the_run_and_its_kernels(client: TestClient, served_run: Path) -> None:
    answer = client.get("/api/run").json()
    net = AlexNet.from_run(served_run)
    assert (answer["name"], answer["reason"], answer["net"]["epoch"], answer["net"]["views"]) == ("birds", None, 3, 10)
    assert answer["net"]["parameters"] == sum(weights.numel() for weights in net.parameters())
    assert [layer["name"] for layer in answer["net"]["layers"]] == list(net.layers())
    assert client.get("/api/classes").json() == list(CLASS_NAMES)
    kernels = client.get("/api/kernels").json()
    assert (kernels["layer"], kernels["kernels"], kernels["side"]) == ("conv1", 8, 5)
    weights = net.layers()["conv1"].weight.detach().numpy()
    for uri, tile in zip(kernels["towers"], kernel_tiles(weights, 2), strict=True):
        assert np.array_equal(decoded(uri), tile)


def test_curves_of_a_run_in_progress(store: Path, tmp_path: Path) -> None:
    steps = [step(number, loss=float(number)) for number in range(1, 1001)]
    run = write_run(tmp_path / "run", START, *steps, epoch(1, train_loss=float("nan")), end='{"event": "ep')
    with new_client(run) as client:
        curves = client.get("/api/curves").json()
        assert (curves["max_epochs"], curves["classes"], curves["imported"]) == (5, 10, False)
        assert (curves["epochs"][0]["train_loss"], curves["epochs"][0]["top1_error"]) == (None, 0.8)
        assert len(curves["steps"]) == 334
        assert curves["steps"][0] == {"epoch": 3 / 12, "loss": 2.0, "rate": 0.01}  # 12 steps an epoch
        assert curves["steps"][-1]["loss"] == 1000
        about = client.get("/api/run").json()
        assert (about["net"], "there is no checkpoint in it" in about["reason"]) == (None, True)
        assert client.post("/api/predict", content=b"x").json() == {"error": about["reason"]}
        with (run / "metrics.jsonl").open("a") as file:
            file.write('och"}\n'.replace('och"}', 'och", "epoch": 2, "step": 24, "rate": 0.1}'))
        assert [line["epoch"] for line in client.get("/api/curves").json()["epochs"]] == [1, 2]
        write_checkpoint(run, store)
        client.app.state.service.run._looked = -1e9  # type: ignore[attr-defined]
        assert client.get("/api/run").json()["net"]["step"] == 15


def test_the_net_is_warm_before_the_first_request(
    served_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted: list[tuple[np.ndarray, int]] = []

    def predict(items: list[tuple[np.ndarray, int]]) -> list[None]:
        predicted.extend(items)
        return [None] * len(items)

    for path in (served_run, write_run(tmp_path / "run", START)):  # the second has no checkpoint yet
        run = ServedRun(path, "cpu")
        monkeypatch.setattr(run, "predict", predict)
        service = Service(run)
        service.warm_up()
        service.close()
    ((picture, views),) = predicted
    recipe = Classifier.load(served_run, device="cpu").recipe
    assert (picture.shape, views) == ((recipe.store_size, recipe.store_size, 3), 10)


def test_the_description_has_every_endpoint_and_needs_no_other_server(client: TestClient) -> None:
    description = client.get("/openapi.json").json()
    assert set(description["paths"]) == {
        "/api/run",
        "/api/classes",
        "/api/curves",
        "/api/kernels",
        "/api/predict",
        "/api/pictures/{id}",
        "/api/pictures/{id}/similar",
        "/api/pictures/{id}/map",
        "/api/pictures/{id}/layers/{layer}",
    }
    for operations in description["paths"].values():
        for operation in operations.values():
            assert operation["summary"]
            assert {"200", "4XX", "503"} <= set(operation["responses"])
    assert "class" in json.dumps(description["components"]["schemas"]["GuessResponse"])
    for path in ("/", "/docs", "/static/main.js", "/static/style.css", "/static/docs.js"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "//" not in answer.text.replace("// ", "").replace("http://www.w3.org/2000/svg", "")
        assert client.get(path, headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
