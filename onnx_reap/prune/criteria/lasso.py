"""Channel pruning by LASSO: one coefficient for each unit's contribution, and a price on each.

With z_i what unit i adds to the outputs of the layers behind, and Y the sum of all,

    minimise over b of  E |Y - sum of b_i z_i|^2 / 2 + price * sum of |b_i|

which the inner products of the contributions determine: the whole path of solutions, from all
coefficients 1 at no price to none, takes one run of least angle regression. A unit goes at the
price from which on its coefficient is zero.

References
----------
Y. He, X. Zhang, J. Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017.
B. Efron, T. Hastie, I. Johnstone, R. Tibshirani, "Least Angle Regression", Annals of Statistics
32(2), 2004.
"""

import warnings

import numpy as np

from onnx_reap.prune.criteria.observation import Matrix, Observation, Order


def order(observed: Observation) -> Order:
    """Let units go as the price rises; those that never take part first, the weakest ahead."""
    gram = observed.contributions()
    return np.lexsort((gram.diagonal(), leaving_prices(gram)))


def leaving_prices(gram: Matrix) -> Matrix:
    """Return the price from which on each unit's coefficient is zero.

    Parameters
    ----------
    gram : (U, U) array
        Inner products of contributions.

    Returns
    -------
    (U,) array
        0 for units that never take part: without contribution, or the same as others make up.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import lars_path_gram

    scale = gram.diagonal().max(initial=0.0)
    if scale == 0:
        return np.zeros(len(gram))
    gram = gram / scale
    with warnings.catch_warnings():
        # Of contributions that others make up: these stay outside, as they should.
        warnings.simplefilter("ignore", ConvergenceWarning)
        prices, _, path = lars_path_gram(
            gram.sum(axis=1), gram, n_samples=1, max_iter=8 * len(gram), method="lasso"
        )
    # Prices fall along the path: before the first step at which a coefficient isn't zero.
    ever, first = (path != 0).any(axis=1), (path != 0).argmax(axis=1)
    return np.where(ever, prices[np.maximum(first - 1, 0)], 0.0)
