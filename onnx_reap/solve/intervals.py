"""Confidence intervals of shares.

References
----------
E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", Journal of the
American Statistical Association 22(158), 1927.

A. Agresti, Y. Min, "Simple Improved Confidence Intervals for Comparing Matched Proportions",
Statistics in Medicine 24(5), 2005.
"""

import math

Z = 1.96  # of a normal distribution, for a two-sided interval of 95 %
LIKELY = 0.674  # for a bound on one side that holds with 75 % confidence


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
