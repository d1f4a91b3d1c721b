"""Filter pruning via geometric median: filters in the middle of the others are replaceable.

    score_i = sum over j of |F_i - F_j|

is least for the filter nearest to the geometric median of all.

References
----------
Y. He, P. Liu, Z. Wang, Z. Hu, Y. Yang, "Filter Pruning via Geometric Median for Deep Convolutional
Neural Networks Acceleration", CVPR 2019.
"""

import numpy as np

from onnx_reap.prune.criteria.observation import Observation, Order


def order(observed: Observation) -> Order:
    """Let units go by the sum of distances from their weights to all others', smallest first."""
    products = observed.filters @ observed.filters.T
    squares = np.diag(products)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * products, 0.0))
    np.fill_diagonal(distances, 0.0)
    return np.argsort(distances.sum(axis=1), kind="stable")
