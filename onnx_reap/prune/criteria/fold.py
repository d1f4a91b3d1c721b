"""Model folding: filters that are alike are one cluster, of which one unit stays.

It becomes the mean of the cluster, and the layers behind read it in place of all others. Filters
that are not quite alike cancel out in part, which takes variance away; as an estimate without data,
for inputs that are independent of each other, the mean gets the root mean square of their norms.

The paper clusters by k-means. Merging the two clusters that raise the same objective, the sum of
squared distances to the clusters' centres, the least (Ward) gives clusterings for every width, each
inside the next, and so an order. The largest filter represents a cluster.

References
----------
D. Wang, H. Šikić, L. Thiele, O. Saukh, "Forget the Data and Fine-Tuning! Just Fold the Network to
Compress", ICLR 2025.
J. H. Ward, "Hierarchical Grouping to Optimize an Objective Function", JASA 58(301), 1963.
"""

from dataclasses import replace

import numpy as np

from onnx_reap.prune.criteria.merging import merging
from onnx_reap.prune.criteria.observation import Matrix, Observation, Order
from onnx_reap.prune.criteria.ranking import Ranking


def rank(observed: Observation) -> Ranking:
    """Let units go as clusters of filters merge."""
    from scipy.cluster.hierarchy import linkage

    def link(units: Order) -> Matrix:
        result: Matrix = linkage(observed.filters[units], "ward")
        return result

    return replace(merging(observed, link, np.linalg.norm(observed.filters, axis=1)), averaged=True)
