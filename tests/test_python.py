"""The package from Python: what `import alexnet` has, and the examples of docs/python.md."""

import io
import re
import subprocess
import sys
import tomllib
from contextlib import redirect_stdout
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small_recipe
from PIL import Image
from source_code import PACKAGE, ROOT

import alexnet
from alexnet.data.store.base import Split
from alexnet.recipes import RECIPES

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.DOTALL)


def example_with(text: str) -> str:
    """Return the one example that contains a text."""
    (example,) = (example for example in EXAMPLES if text in example)
    return example


def test_importing_the_package_imports_nothing_large() -> None:
    code = "import sys, alexnet; alexnet.Recipe; dir(alexnet); print({'torch', 'numpy', 'sklearn'} & {*sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


def test_dir_lists_the_public_names_and_each_is_there() -> None:
    names = {name for name in dir(alexnet) if not name.startswith("__")}
    assert {"AlexNet", "AlexNetClassifier", "Classifier", "Recipe", "Split", "Store", "prepare", "train"} <= names
    assert {"__version__", "__doc__"} <= set(dir(alexnet))
    assert set(alexnet.__all__) == names - {"AlexNetClassifier"} | {"__version__"}  # it needs an extra
    assert all(getattr(alexnet, name) is not None for name in names)
    assert alexnet.__version__ == version("alexnet")
    with pytest.raises(AttributeError, match="module 'alexnet' has no attribute 'net'"):
        alexnet.net  # noqa: B018


def test_the_example_of_predictions_runs(
    uninterrupted: Path, picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/mine").symlink_to(uninterrupted)
    for name, file in zip(("robin.jpg", "owl.jpg"), sorted(picture_folder.glob("*/*.jpg")), strict=False):
        Image.open(file).save(name)
    lines = example_with("features").splitlines()
    names: dict[str, Any] = {}
    exec("\n".join(lines[:3]), names)
    one, two, probabilities, features = (eval(line, names) for line in lines[3:])
    assert two[0] == [(name, pytest.approx(probability, abs=1e-5)) for name, probability in one]
    assert (len(two), probabilities.shape, features.shape) == (2, (2, 3), (16,))


def stand_in_for_timm() -> ModuleType:
    """Return the two functions of timm that the example calls; timm itself needs torchvision."""

    def create_loader(dataset: Any, input_size: Any, batch_size: int, *, num_workers: int, **_: Any) -> Any:
        def transform(picture: Image.Image) -> torch.Tensor:
            pixels = np.asarray(picture.resize(input_size[1:]), np.float32) / 255
            return torch.from_numpy(pixels.transpose(2, 0, 1))

        dataset.transform = transform  # as timm does
        return torch.utils.data.DataLoader(dataset, batch_size, shuffle=True, num_workers=num_workers)

    timm, timm.data = ModuleType("timm"), ModuleType("timm.data")  # type: ignore[attr-defined]
    timm.data.create_loader = create_loader
    timm.create_model = lambda _, num_classes: torch.nn.Sequential(  # type: ignore[attr-defined]
        torch.nn.AvgPool2d(56), torch.nn.Flatten(), torch.nn.Linear(48, num_classes)
    )
    return timm


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12
def test_the_example_with_timm_runs(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("stores").mkdir()
    Path("stores/mine").symlink_to(store)
    monkeypatch.setitem(sys.modules, "timm", stand_in_for_timm())
    names: dict[str, Any] = {}
    exec(example_with("import timm"), names)
    assert isinstance(names["split"], Split)
    assert names["pictures"].shape[1:] == (3, 224, 224)
    assert all(parameter.grad.abs().sum() > 0 for parameter in names["model"].parameters())


def test_the_example_with_scikit_learn_runs(
    picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pictures").symlink_to(picture_folder)
    monkeypatch.setitem(RECIPES, "tiny", lambda: replace(small_recipe(), epochs=20))
    example = example_with("sklearn").replace("epochs=20", "epochs=1")
    assert len(example.splitlines()) == 10
    with redirect_stdout(io.StringIO()) as output:
        exec(f"import warnings\nwarnings.simplefilter('ignore')\n{example}", {})
    assert all(name in output.getvalue() for name in ("blue stripes", "green square", "red disc", "macro avg"))


def test_a_wheel_has_every_file_of_the_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    patterns = ["*.py", *settings["package-data"]["*"]]
    files = [file for file in PACKAGE.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    assert [file for file in files if not any(file.match(pattern) for pattern in patterns)] == []
    assert (PACKAGE / "py.typed").is_file()
