"""The paper "ImageNet Classification with Deep Convolutional Neural Networks" as one program.

The public names are imported at their first use, so that `alexnet --help` does not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alexnet.architecture import Net
    from alexnet.convert.export import export
    from alexnet.convert.import_net import import_net
    from alexnet.data.prepare.prepare import prepare
    from alexnet.data.store.base import Split
    from alexnet.data.store.store import Store
    from alexnet.models.alexnet import AlexNet
    from alexnet.recipe import Recipe
    from alexnet.recipes import recipe_named
    from alexnet.results.classifier import Classifier
    from alexnet.results.estimator import AlexNetClassifier as AlexNetClassifier  # needs scikit-learn: not in __all__
    from alexnet.results.evaluate import evaluate
    from alexnet.results.report import report
    from alexnet.training.train import train

    __version__: str

_MODULES = {
    "AlexNet": "alexnet.models.alexnet",
    "AlexNetClassifier": "alexnet.results.estimator",
    "Classifier": "alexnet.results.classifier",
    "Net": "alexnet.architecture",
    "Recipe": "alexnet.recipe",
    "Split": "alexnet.data.store.base",
    "Store": "alexnet.data.store.store",
    "evaluate": "alexnet.results.evaluate",
    "export": "alexnet.convert.export",
    "import_net": "alexnet.convert.import_net",
    "prepare": "alexnet.data.prepare.prepare",
    "recipe_named": "alexnet.recipes",
    "report": "alexnet.results.report",
    "train": "alexnet.training.train",
}

__all__ = [
    "AlexNet",
    "Classifier",
    "Net",
    "Recipe",
    "Split",
    "Store",
    "__version__",
    "evaluate",
    "export",
    "import_net",
    "prepare",
    "recipe_named",
    "report",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("alexnet")
    if name not in _MODULES:
        raise AttributeError(f"module 'alexnet' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES, *(name for name in globals() if name.startswith("__"))})
