"""From a few measured points to the divergence at every width.

Between points the divergence follows the local error of the removal path, which is known at every
width: a straight line in the logarithms of both, through the measured points. Past the measured
points the divergence stays proportional to the local error.
"""

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

FLOOR = 1e-9  # below this, relative to the largest, errors and divergences are noise


def divergence_curve(errors: Vector, points: Vector, measured: Vector) -> Vector | None:
    """Estimate the divergence wherever the local error is known.

    Parameters
    ----------
    errors : (k,) array
        Local errors, at least 0.
    points : (m,) array
        Local errors at which the divergence was measured.
    measured : (m,) array
        Divergence there.

    Returns
    -------
    (k,) array or None
        0 where the local error is 0; never decreasing with it. None where no point tells anything.
    """
    order = np.argsort(points, kind="stable")
    x, y = points[order], np.maximum.accumulate(measured[order])
    use = (x > FLOOR * x.max(initial=0.0)) & (y > 0)
    if not use.any():
        return None
    x, y = np.log(x[use]), np.log(y[use])
    with np.errstate(divide="ignore"):
        e = np.log(errors)
    inside = np.exp(np.interp(e, x, y))
    below, above = np.exp(e - x[0] + y[0]), np.exp(e - x[-1] + y[-1])
    result: Vector | None = np.where(e < x[0], below, np.where(e > x[-1], above, inside))
    return result
