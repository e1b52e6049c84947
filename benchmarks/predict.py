"""Prediction from picture files, beside evaluation from a store and beside a net of torch.nn fed by PIL.

    python benchmarks/predict.py [--pictures FOLDER] [--count 10000] [--views 1|10] [--repeats 3] [--json FILE]

The table gives the median pictures/s of each:

- "predict": `Classifier.predict_stream` on the files of a folder, as in `alexnet predict RUN FOLDER`, the paper's net;
- "evaluate": the same net on a raw store of the same pictures with as many views, as in `alexnet evaluate RUN STORE`;
- "decoding": reading and decoding the same files on all cores, without a net;
- "evaluate plus decoding": computed from these two, one after the other; "predict" does both at the same time;
- "torch.nn": torchvision's AlexNet, written out in peers/nets.py; its files are read by PIL as torchvision's transforms
  do it, in a DataLoader with a process for each core, with as many pictures in a batch as ours has;
- "torch.nn, float32": the same without autocast, as torch computes unless it is told otherwise.

All are timed in turn in one process, with the same files, threads and, but for the last, precision (the recipe's
"auto"); predictions of ours from files and from the store are compared first. Without --pictures, synthetic JPEG files
of 500 x 375 pixels are drawn. One view of 10,000 pictures takes a few minutes for each on two cores, ten views an hour:
--count limits them.
"""

import argparse
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from common.environment import environment_info
from common.output import markdown_table, write_json
from common.timing import medians, time_interleaved
from peers.nets import torchvision_alexnet
from peers.prediction import predict_files
from synthetic.photographs import describe_files, draw_folder

from alexnet.data.prepare.decode import read_image
from alexnet.data.prepare.prepare import prepare
from alexnet.data.sources.named_pictures import iter_named_pictures
from alexnet.data.store.store import Store
from alexnet.models.alexnet import AlexNet
from alexnet.recipe import Recipe
from alexnet.results.classifier import Classifier
from alexnet.training.checkpoint import Checkpoint, TrainState
from alexnet.training.inference import mean_over_views, pictures_per_batch, predict_batches
from alexnet.utils.cores import available_cores
from alexnet.utils.memory import keep_freed_memory
from alexnet.utils.prefetch import prefetch


def _new_classifier(store: Store, classes: int, device: torch.device) -> Classifier:
    """Return a classifier of the paper's net with random weights, which take as long as trained ones."""
    recipe = Recipe()
    torch.manual_seed(0)
    tensors = {f"net.{name}": tensor for name, tensor in AlexNet(classes, recipe.net).state_dict().items()}
    names = tuple(map(str, range(classes)))
    checkpoint = Checkpoint(Path("random"), recipe, names, store.statistics, TrainState(), tensors)
    return Classifier(checkpoint, device=device)


def _decode_all(paths: list[Path], size: int) -> None:
    """Read and decode files on all cores."""
    cores = available_cores()
    with closing(prefetch(lambda path: read_image(path, size).shape, paths, workers=cores, buffer_size=4 * cores)) as n:
        assert sum(1 for _ in n) == len(paths)


def _functions(
    classifier: Classifier, store: Store, paths: list[Path], views: int
) -> dict[str, Callable[[], list[float]]]:
    """Return the functions to time, by name; ours return the highest probability of each picture."""
    net, recipe, device = classifier.net, classifier.recipe, classifier.net.device
    peer = torchvision_alexnet(len(classifier.classes)).to(device).eval()
    batch_size = pictures_per_batch(device, views)

    def predict() -> list[float]:
        stream = classifier.predict_stream(iter_named_pictures(map(str, paths)), top=5, views=views)
        return [prediction.classes[0][1] for prediction in stream]

    def evaluate() -> list[float]:
        batches = predict_batches(net, store.split("test"), store.statistics.mean, recipe, views=views)
        return torch.cat([mean_over_views(probabilities) for probabilities, _ in batches]).amax(1).tolist()

    def decode() -> list[float]:
        _decode_all(paths, recipe.store_size)
        return []

    def predict_with_torch(peer_recipe: Recipe) -> list[float]:
        options = {"views": views, "batch_size": batch_size, "workers": available_cores()}
        return predict_files(peer, paths, peer_recipe, **options).amax(1).tolist()

    return {
        "predict": predict,
        "evaluate": evaluate,
        "decoding": decode,
        "torch.nn": partial(predict_with_torch, recipe),
        "torch.nn, float32": partial(predict_with_torch, replace(recipe, precision="float32")),
    }


def _prepare_store(folder: Path, path: Path) -> Store:
    """Prepare all pictures of a folder of class folders as the split "test"."""
    prepare(folder, path, encoding="raw", held_out=0, test=1, ignore_duplicates=True)
    return Store(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="a folder of class folders; default: synthetic pictures")
    parser.add_argument("--count", type=int, default=10_000, help="synthetic pictures; default: %(default)s")
    parser.add_argument("--views", type=int, choices=(1, 10), default=1, help="default: %(default)s")
    parser.add_argument("--classes", type=int, default=1000, help="outputs of the nets; default: %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="timings of each; default: %(default)s")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the file to write the numbers to")
    options = parser.parse_args()
    keep_freed_memory()
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.pictures or draw_folder(Path(temporary) / "pictures", options.count, "web")
        paths = [Path(picture.name) for picture in iter_named_pictures([str(folder)])]
        store = _prepare_store(folder, Path(temporary) / "store")
        if len(store.split("test")) != len(paths):
            parser.error(f"all {len(paths)} files of {folder} must be pictures; {len(store.split('test'))} are")
        classifier = _new_classifier(store, options.classes, device)
        functions = _functions(classifier, store, paths, options.views)
        ours = sorted(functions["predict"]())
        torch.testing.assert_close(ours, sorted(functions["evaluate"]()), rtol=0, atol=1e-4)
        seconds = medians(time_interleaved(functions, options.repeats, device))
        about = describe_files(paths)
    seconds["evaluate plus decoding"] = seconds["evaluate"] + seconds["decoding"]
    rates = {name: len(paths) / duration for name, duration in seconds.items()}
    info = environment_info(device)
    print(f"{about}, {options.views} of 10 views, {info}")
    rows = [(name, f"{rate:.1f}", f"{rates['predict'] / rate:.2f}x") for name, rate in rates.items()]
    print(markdown_table(rows, ("what", "pictures/s", "predict against it")))
    numbers = {"about": info, "pictures": len(paths), "views": options.views, "pictures_per_second": rates}
    write_json(options.json, numbers)


if __name__ == "__main__":
    main()
