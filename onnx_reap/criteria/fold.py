"""Model folding: filters that point the same way are one cluster, of which one unit stays.

The paper clusters by k-means. Merging the two clusters that raise the same objective, the sum of
squared distances to the clusters' centres, the least (Ward) gives clusterings for every width, each
inside the next, and so an order. The largest filter represents a cluster.

References
----------
D. Wang, H. Šikić, L. Thiele, O. Saukh, "Forget the Data and Fine-Tuning! Just Fold the Network to
Compress", ICLR 2025.
J. H. Ward, "Hierarchical Grouping to Optimize an Objective Function", JASA 58(301), 1963.
"""

from __future__ import annotations

import numpy as np

from onnx_reap.criteria.merging import merging_order
from onnx_reap.criteria.seen import Matrix, Order, Seen


def order(seen: Seen) -> Order:
    """Let units go as clusters of filters, each scaled to norm 1, merge."""
    from scipy.cluster.hierarchy import linkage

    norms = np.linalg.norm(seen.filters, axis=1)
    directions = seen.filters / np.where(norms > 0, norms, 1.0)[:, None]

    def link(units: Order) -> Matrix:
        return linkage(directions[units], "ward")

    return merging_order(seen, link, norms)
