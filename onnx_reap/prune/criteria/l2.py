"""The Euclidean norm of a unit's weights.

References
----------
H. Li, A. Kadav, I. Durdanovic, H. Samet, H. P. Graf, "Pruning Filters for Efficient ConvNets",
ICLR 2017, which compares it with the absolute sum.
"""

import numpy as np

from onnx_reap.prune.criteria.observation import Observation, Order


def order(observed: Observation) -> Order:
    """Let units go by the norm of the weights that make them, smallest first."""
    return np.argsort(np.linalg.norm(observed.filters, axis=1), kind="stable")
