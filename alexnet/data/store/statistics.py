"""The statistics of the training pictures: mean activity and principal components of the colours (3 and 5.1)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet.data.store.format import read_safetensors, safetensors_bytes
from alexnet.utils.files import write_atomic


@dataclass(frozen=True, eq=False)
class Statistics:
    """The mean activity and the principal components of the colours of the training pictures (3 and 5.1).

    Args:
        mean: (3, size, size) float32, the mean activity of each channel and pixel, in 0..255 units.
        covariance: (3, 3) float64, the covariance of the RGB values of all pixels, in 0..255 units. The sums are
            divided by the number of pixels.
        eigenvalues: (3,) float64, the eigenvalues of the covariance, in descending order.
        components: (3, 3) float64. Row i is the unit eigenvector of eigenvalue i as (R, G, B); its entry of the largest
            magnitude is positive.
        count: The number of training pictures.

    A store without training pictures has the statistics of all its pictures.
    """

    mean: np.ndarray
    covariance: np.ndarray
    eigenvalues: np.ndarray
    components: np.ndarray
    count: int

    @classmethod
    def from_sums(cls, sums: np.ndarray, products: np.ndarray, count: int) -> "Statistics":
        """Return the statistics from exact integer sums, for which the order of the additions does not matter.

        Args:
            sums: (size, size, 3) int64, the sum of each value over the pictures.
            products: (3, 3) int64, the sum of the products of two channels over pictures and pixels.
            count: The number of pictures in the sums.
        """
        size = sums.shape[0]
        pixels = count * size * size
        totals = [int(total) for total in sums.sum(axis=(0, 1))]
        # Python's integers are exact at any size; the one division is the only rounding.
        covariance = np.array(
            [
                [(int(products[i, j]) * pixels - totals[i] * totals[j]) / (pixels * pixels) for j in range(3)]
                for i in range(3)
            ]
        )
        mean = (sums / count).astype(np.float32).transpose(2, 0, 1)
        return cls.from_covariance(np.ascontiguousarray(mean), covariance, count)

    @classmethod
    def from_covariance(cls, mean: np.ndarray, covariance: np.ndarray, count: int) -> "Statistics":
        """Return the statistics with the principal components of a (3, 3) covariance."""
        values, vectors = np.linalg.eigh(covariance)
        components = np.ascontiguousarray(vectors.T[::-1])
        largest = np.abs(components).argmax(axis=1)
        signs = np.where(components[np.arange(3), largest] < 0, -1.0, 1.0)
        eigenvalues = np.maximum(values[::-1], 0.0)  # for grey pictures, rounding can give a smallest one of -1e-13
        return cls(mean, covariance, np.ascontiguousarray(eigenvalues), components * signs[:, None], count)

    def colour_deviations(self) -> np.ndarray:
        """Return the (3,) square roots of the eigenvalues, which scale the colour shift (2012-source, "Images")."""
        deviations: np.ndarray = np.sqrt(self.eigenvalues)
        return deviations

    def to_bytes(self, metadata: dict[str, Any] | None = None) -> bytes:
        """Return the contents of a safetensors file.

        Args:
            metadata: More values to store in the file, of types that JSON has.
        """
        tensors = {"mean": self.mean, "covariance": self.covariance}
        tensors |= {"eigenvalues": self.eigenvalues, "components": self.components}
        return safetensors_bytes(tensors, {**(metadata or {}), "count": self.count})

    def save(self, path: str | Path, metadata: dict[str, Any] | None = None) -> None:
        """Write the statistics as a safetensors file, atomically."""
        write_atomic(Path(path), self.to_bytes(metadata))

    @classmethod
    def load(cls, path: str | Path) -> "Statistics":
        """Read a file that `save` wrote.

        Raises:
            ValueError: The file is not a safetensors file of statistics.
        """
        return cls.from_tensors(*read_safetensors(path), path)

    @classmethod
    def from_tensors(cls, tensors: dict[str, Any], metadata: dict[str, Any], path: str | Path) -> "Statistics":
        """Return the statistics from the contents of a file that `save` wrote.

        Args:
            tensors: The arrays of the file, by name.
            metadata: The metadata of the file.
            path: The file, for the error message.

        Raises:
            ValueError: A tensor or the count is missing, or has another shape.
        """
        names = ("mean", "covariance", "eigenvalues", "components")
        if not isinstance(metadata.get("count"), int) or any(name not in tensors for name in names):
            raise ValueError(f"{path}: not the statistics of a store; prepare the store again")
        statistics = {name: tensors[name] for name in names}
        side = statistics["mean"].shape[-1:]
        shapes = {"mean": (3, *side, *side), "covariance": (3, 3), "eigenvalues": (3,), "components": (3, 3)}
        if any(statistics[name].shape != shape for name, shape in shapes.items()):
            raise ValueError(f"{path}: not the statistics of a store (an array has another shape); prepare it again")
        return cls(**statistics, count=int(metadata["count"]))
