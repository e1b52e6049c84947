"""What is published about the pictures of ImageNet, on which the nets of other programs were trained."""

import numpy as np

from alexnet.data.store.statistics import Statistics

# Square roots of the eigenvalues of the colours' covariance, and its components as R, G, B (2012-source, "Images").
_DEVIATIONS = (121.780, 37.094, 19.721)
_COMPONENTS = ((0.5635, 0.5762, 0.5920), (0.7126, 0.0235, -0.7012), (-0.4180, 0.8170, -0.3973))


def imagenet_statistics(mean: np.ndarray, size: int) -> Statistics:
    """Return the statistics of an imported run: the net's own mean, and the colours of ImageNet.

    Args:
        mean: (3,) or (3, size, size), in 0..255 units, in the order RGB.
        size: Side of the stored pictures, in pixels.
    """
    full_mean = np.broadcast_to(mean.reshape(3, *(mean.shape[1:] or (1, 1))), (3, size, size))
    components, eigenvalues = np.array(_COMPONENTS), np.square(_DEVIATIONS)
    covariance = components.T @ np.diag(eigenvalues) @ components
    return Statistics(np.ascontiguousarray(full_mean, np.float32), covariance, eigenvalues, components, 0)
