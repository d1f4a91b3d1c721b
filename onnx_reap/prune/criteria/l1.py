"""The sum of a unit's absolute weights.

References
----------
H. Li, A. Kadav, I. Durdanovic, H. Samet, H. P. Graf, "Pruning Filters for Efficient ConvNets",
ICLR 2017.
"""

import numpy as np

from onnx_reap.prune.criteria.observation import Observation, Order


def order(observed: Observation) -> Order:
    """Let units go by the absolute sum of the weights that make them, smallest first."""
    return np.argsort(np.abs(observed.filters).sum(axis=1), kind="stable")
