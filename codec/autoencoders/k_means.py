"""K-means, by which small codebooks are made of large ones."""

from __future__ import annotations

import torch
from torch import Tensor

ITERATIONS = 30  # with others, models that were imported would have other identities


def k_means(points: Tensor, size: int, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Centres (size, dimensions), float32, of points (n, dimensions), and the index of each one's centre (n,), int64.

    The same for the same points: it computes in one thread, as sums in another order are others.

    Args:
        weights: how often each point counts, (n,); once by default.

    Raises:
        ImportError: scikit-learn is not installed; the message says how to.
    """
    try:
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ImportError("codebooks are made by scikit-learn: pip install 'pillow-clric[training]'") from error
    often = None if weights is None else weights.numpy()
    with threadpool_limits(1):
        found = KMeans(size, n_init=1, max_iter=ITERATIONS, random_state=0).fit(points.double().numpy(), None, often)
    return torch.from_numpy(found.cluster_centers_).float(), torch.from_numpy(found.labels_).long()
