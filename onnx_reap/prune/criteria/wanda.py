"""Weights and activations: a weight matters as much as what arrives at it.

    score_i = sum over the weights that read unit i of |W_kl| * |X_k|

with |X_k| the norm of the weight's input over all rows. The paper removes single weights; here the
scores of all that read a unit are summed.

References
----------
M. Sun, Z. Liu, A. Bair, J. Z. Kolter, "A Simple and Effective Pruning Approach for Large Language
Models", ICLR 2024, arXiv:2306.11695.
"""

import numpy as np

from onnx_reap.prune.criteria.observation import Observation, Order


def order(observed: Observation) -> Order:
    """Let units go by the sum of absolute weight times norm of the input, smallest first."""
    scores = np.zeros(observed.width)
    for reader in observed.readers:
        norms = np.sqrt(reader.squares)  # the mean over rows: a factor common to all
        scores += reader.of_units(np.abs(reader.weight).sum(axis=1) * norms).sum(axis=1)
    return np.argsort(scores, kind="stable")
