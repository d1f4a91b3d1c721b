"""ThiNet: the units that the next layer's sums miss least, added up greedily, without a refit.

With z_i what unit i adds to the outputs of the layers behind, the set T of removed units grows by
the one that leaves the least

    E |sum over i in T of z_i|^2.

References
----------
J.-H. Luo, J. Wu, W. Lin, "ThiNet: A Filter Level Pruning Method for Deep Neural Network
Compression", ICCV 2017.
"""

from onnx_reap.prune.criteria.balance import greedily
from onnx_reap.prune.criteria.observation import Observation, Order


def order(observed: Observation) -> Order:
    """Let go what raises the error of leaving contributions out the least."""
    gram = observed.contributions()
    raised = gram.diagonal().copy()  # G_jj + 2 * sum of G_ij over i in T

    def gone(unit: int) -> None:
        raised[:] += 2 * gram[unit]

    return greedily(observed, lambda: raised, gone)
