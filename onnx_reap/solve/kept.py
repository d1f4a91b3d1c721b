"""Make up for removed columns by those that stay, from second moments alone.

The columns K that stay take over what the removed ones R gave, in the damped problem

    min over W' that is zero in R of  tr((W' - W)^T (G + l I) (W' - W))

with l = damping * mean(diag G): W'_K = W_K + (G + l I)_KK^-1 G_KR W_R, which is what a removal path
[1]_ arrives at.

References
----------
.. [1] K. Kamma, T. Wada, "REAP: A Method for Pruning Convolutional Neural Networks with Performance
       Preservation", IEICE Trans. Inf. & Syst. E104-D(1), 2021.
"""

import array_api_compat as compat
import numpy as np

from onnx_reap.solve.backend import Array, on_device
from onnx_reap.solve.linalg import damped


def without(gram: Array, weight: Array, removed: np.ndarray, damping: float) -> Array:
    """Return the weight that does best without some of its inputs.

    Parameters
    ----------
    gram : array, shape (D, D), float64
        Centred second moment of the inputs.
    weight : array, shape (D, O), float64

    Returns
    -------
    array, shape (D, O), float64
        Zero in the rows of removed inputs.
    """
    xp = compat.array_namespace(gram, weight)
    gone = on_device(removed, like=gram)[:, None]
    kept = xp.where(gone, 0.0, weight)
    stay, go = (on_device(np.flatnonzero(which), like=gram) for which in (~removed, removed))
    if stay.shape[0] == 0 or go.shape[0] == 0:
        return kept
    rows = xp.take(damped(gram, damping), stay, axis=0)
    lost = xp.take(rows, go, axis=1) @ xp.take(weight, go, axis=0)
    gained = xp.linalg.solve(xp.take(rows, stay, axis=1), lost)
    place = on_device(np.where(removed, 0, np.cumsum(~removed) - 1), like=gram)
    return kept + xp.where(gone, 0.0, xp.take(gained, place, axis=0))
