"""Channel similarity: units of like distribution overlap in what they do; one of a cluster stays.

Units are random variables of which mean and variance are known, taken to be independent, so that
their expected squared distance is

    E (x_i - x_j)^2 = (m_i - m_j)^2 + v_i + v_j.

The paper derives mean and variance from BatchNormalization; here they are those that arrive at the
layers behind. Clusters merge by average linkage, and the unit of largest variance represents them.
Units of like distribution need not be alike sample by sample, so it takes nothing over.

References
----------
Y. Zhang, C. Zhao, B. Ni, J. Zhang, H. Deng, "Exploiting Channel Similarity for Accelerating Deep
Convolutional Neural Networks", arXiv:1908.02620, 2019.
"""

import numpy as np

from onnx_reap.prune.criteria.merging import merging
from onnx_reap.prune.criteria.observation import Matrix, Observation, Order


def order(observed: Observation) -> Order:
    """Let units go as clusters of like mean and variance merge."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    mean, variance = observed.statistics()

    def link(units: Order) -> Matrix:
        m, v = mean[units], variance[units]
        squares = (m[:, None] - m) ** 2 + v[:, None] + v
        np.fill_diagonal(squares, 0.0)
        result: Matrix = linkage(squareform(np.sqrt(squares), checks=False), "average")
        return result

    return np.array(merging(observed, link, variance).order)
