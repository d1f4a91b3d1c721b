"""Confidence intervals of shares, and of ratios of means.

References
----------
E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", Journal of the
American Statistical Association 22(158), 1927.

A. Agresti, Y. Min, "Simple Improved Confidence Intervals for Comparing Matched Proportions",
Statistics in Medicine 24(5), 2005.

L. Kish, "Survey Sampling", Wiley, 1965 (effective number of weighted samples).
"""

import math

import numpy as np
import numpy.typing as npt

Z = 1.96  # of a normal distribution, for a two-sided interval of 95 %
LIKELY = 0.674  # for a bound on one side that holds with 75 % confidence

# By degrees of freedom, how far what is true lies above, in standard errors (Student's t); what
# lies between is nearly linear in their inverse.
FREEDOM = (1, 2, 3, 4, 5, 8, 15, 30, math.inf)
STUDENT = {
    Z: (12.71, 4.303, 3.182, 2.776, 2.571, 2.306, 2.131, 2.042, 1.960),
    LIKELY: (1.0, 0.816, 0.765, 0.741, 0.727, 0.706, 0.691, 0.683, 0.674),
}


def wilson(share: float, n: float, z: float = Z) -> tuple[float, float]:
    """Return the confidence interval, of 95 % by default, of a share of n samples."""
    centre, spread = (
        share + z**2 / (2 * n),
        z * math.sqrt(share * (1 - share) / n + (z / n / 2) ** 2),
    )
    return (centre - spread) / (1 + z**2 / n), (centre + spread) / (1 + z**2 / n)


def agresti_min(lost: int, gained: int, n: int, z: float = Z) -> tuple[float, float]:
    """Return the confidence interval of a difference of shares among the same n samples.

    It is that of 95 % by default. Half a sample is added to each of the four cells, so that it is
    right for few changes, too.
    """
    lost_, gained_, n_ = lost + 0.5, gained + 0.5, n + 2
    centre = (lost_ - gained_) / n_
    half = z * math.sqrt(lost_ + gained_ - n_ * centre**2) / n_
    return max(centre - half, -1.0), min(centre + half, 1.0)


def ratio_interval(
    above: npt.NDArray[np.float64], below: npt.NDArray[np.float64], z: float = Z
) -> tuple[float, float]:
    """Return the confidence interval, of 95 % by default, of a ratio of means over samples.

    It lies on a scale of logarithms. Where few samples hold most of a sum, the largest are likely
    still to come: so the variance of the ratio is raised by what an effective number of samples,
    (sum of x)^2 / sum of x^2 of whichever sum has fewer, lacks of their number; Student's t has
    its degrees of freedom; and for the upper end the sample that raises the ratio most counts
    twice. `docs/method.md` tells how often intervals hold.

    Parameters
    ----------
    above, below : (n,) arrays
        Of each sample, at least 0; `below` not all 0, n at least 2.
    z : float
        `Z` or `LIKELY`.

    Returns
    -------
    low, high : float
        0 and 0 where `above` is all 0.
    """
    ratio = above.sum() / below.sum()
    if ratio == 0:
        return 0.0, 0.0
    worst = int(np.argmax(above - ratio * below))
    more = (np.append(each, each[worst]) for each in (above, below))
    effective = min(x.sum() ** 2 / (x @ x) for x in (above, below))
    lacking = max(1 / effective - 1 / len(above), 0.0)
    inverse = 1 / max(effective - 1, 1.0)
    t = np.interp(inverse, [1 / f for f in FREEDOM[::-1]], STUDENT[z][::-1])
    low, high = _log_ratio(above, below), _log_ratio(*more)
    widths = [t * math.hypot(error, math.sqrt(lacking)) for _, error in (low, high)]
    return math.exp(low[0] - widths[0]), math.exp(high[0] + widths[1])


def _log_ratio(
    above: npt.NDArray[np.float64], below: npt.NDArray[np.float64]
) -> tuple[float, float]:
    """Return the logarithm of a ratio of means, and its standard error."""
    n, ratio = len(above), above.sum() / below.sum()
    away = (above - ratio * below) / above.mean()
    return math.log(ratio), math.sqrt(away @ away / (n - 1) / n)
