"""The sets of pictures that the paper used, and how to get them."""

from dataclasses import dataclass

from alexnet.data.store.store import Store


@dataclass(frozen=True)
class PaperDataset:
    """A set of pictures that the paper used for a claim.

    Args:
        name: Its name.
        classes: The number of classes.
        train: The number of training pictures; None if half of each class is held out.
        files: Which files to get, and where.
        size: The side of the stored squares, in pixels.
        val: The number of its validation pictures, if it has a validation set.
        batch: The number of training pictures that may be set aside as "val".
        options: Further options of `alexnet prepare`.
    """

    name: str
    classes: int
    train: int | None
    files: str
    size: int = 256
    val: int | None = None
    batch: int = 0
    options: str = ""

    def instructions(self) -> str:
        """Return how to get and prepare it, in a line."""
        return f"prepared from {self.name} ({self.files}) with alexnet prepare --size {self.size}{self.options}"

    def matches(self, store: Store) -> bool:
        """Return whether a store has this set, judged by its numbers of classes and pictures."""
        train, val = (len(store.split(name)) if name in store.splits else 0 for name in ("train", "val"))
        if len(store.classes) != self.classes:
            return False
        if self.train is None:  # half of each class is held out; an odd number of pictures leaves one more
            return abs(train - val) <= self.classes
        if self.val is not None:
            return (train, val) == (self.train, self.val)
        return train == self.train or (train, val) == (self.train - self.batch, self.batch)


CIFAR10 = PaperDataset(
    "CIFAR-10", 10, 50_000, "cifar-10-binary.tar.gz, https://www.cs.toronto.edu/~kriz/cifar.html", 32, batch=10_000
)
_FOLDERS = "unpacked, a folder per class in train/, val/ and, if there is a test set, test/"
ILSVRC2010 = PaperDataset(
    "ILSVRC-2010", 1000, 1_261_406, f"its archives, https://image-net.org/challenges/LSVRC/2010, {_FOLDERS}", val=50_000
)
ILSVRC2012 = PaperDataset(
    "ILSVRC-2012",
    1000,
    1_281_167,
    f"ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, https://image-net.org/download, {_FOLDERS}",
    val=50_000,
)
CALTECH101 = PaperDataset(
    "Caltech-101",
    101,
    3030,
    "101_ObjectCategories without its BACKGROUND_Google, https://data.caltech.edu/records/mzrjq-6wc02, 30 pictures a "
    "class to train on",
    options=" --train-per-class 30",
)
FALL2009 = PaperDataset(
    "ImageNet's Fall 2009 release",
    10_184,
    None,
    "its 10,184 archives, https://image-net.org/download, half of the pictures to test on",
    options=" --held-out 0.5",
)
