"""The sets of pictures that the paper used, and how to get them."""

from collections.abc import Mapping
from dataclasses import dataclass

from alexnet.data.sources.base import SourceOptions
from alexnet.data.store.store import Store


@dataclass(frozen=True)
class PaperDataset:
    """A set of pictures that the paper used for a claim.

    Args:
        name: Its name.
        classes: The number of classes.
        train: The number of training pictures; None if half of each class is tested on.
        files: Which files to get, and where.
        size: The side of the stored squares, in pixels.
        val: The number of its validation pictures, if it has a validation set.
        batch: The number of training pictures that may be set aside as "val".
        held_out, test, train_per_class, val_batch: As for `alexnet prepare`, if it has no splits of its own.
    """

    name: str
    classes: int
    train: int | None
    files: str
    size: int = 256
    val: int | None = None
    batch: int = 0
    held_out: float | None = SourceOptions.held_out
    test: float | None = SourceOptions.test
    train_per_class: int | None = None
    val_batch: int | None = None

    def instructions(self) -> str:
        """Return how to get and prepare it, in a line."""
        names = ("held_out", "test", "train_per_class", "val_batch")
        options = {name: value for name in names if (value := getattr(self, name)) != getattr(SourceOptions, name)}
        text = ", ".join(f"`{name}={value}`" for name, value in {"size": self.size, **options}.items())
        return f"prepared from {self.name} ({self.files}) with {text}"

    def matches(self, store: Store) -> bool:
        """Return whether a store has this set, judged by its numbers of classes and pictures."""
        return self.has_counts(len(store.classes), {name: len(store.split(name)) for name in store.splits})

    def has_counts(self, classes: int, pictures: Mapping[str, int]) -> bool:
        """Return whether these are the set's numbers of classes, and of pictures in each split."""
        train, val, test = (pictures.get(name, 0) for name in ("train", "val", "test"))
        if classes != self.classes:
            return False
        if self.train is None:  # half of each class is tested on; an odd number of pictures leaves one more
            return abs(train - val - test) <= self.classes
        if self.val is not None:
            return (train, val) == (self.train, self.val)
        return train == self.train or (train, val) == (self.train - self.batch, self.batch)


CIFAR10 = PaperDataset(
    "CIFAR-10", 10, 50_000, "cifar-10-binary.tar.gz, https://www.cs.toronto.edu/~kriz/cifar.html", 32, batch=10_000
)
ILSVRC2010 = PaperDataset(
    "ILSVRC-2010",
    1000,
    1_261_406,
    "the folder of its archives, https://image-net.org/challenges/LSVRC/2010, with the development kit",
    val=50_000,
)
ILSVRC2012 = PaperDataset(
    "ILSVRC-2012",
    1000,
    1_281_167,
    "the folder of ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz, "
    "https://image-net.org/download",
    val=50_000,
)
CALTECH101 = PaperDataset(
    "Caltech-101",
    101,
    3030,
    "101_ObjectCategories without its BACKGROUND_Google, https://data.caltech.edu/records/mzrjq-6wc02, 30 pictures a "
    "class to train on",
    train_per_class=30,
)
FALL2009 = PaperDataset(
    "ImageNet's Fall 2009 release",
    10_184,
    None,
    "its 10,184 archives, https://image-net.org/download, half of the pictures to test on",
    held_out=0,
    test=0.5,
)
