"""Partial least squares: units matter as far as they take part in explaining the outputs.

Features are the largest values of units, one by sample; responses the classes that labels tell, or,
without labels, what the model puts out. Of a regression with components h = 1, 2 of weights w_h,
scores t_h and loadings q_h of the responses, the Variable Importance in Projection of unit i among
p is

    VIP_i = sqrt(p * sum over h of s_h (w_ih / |w_h|)^2 / sum over h of s_h)

with s_h = |t_h|^2 |q_h|^2.

The paper regresses on the features of all layers at once; here each group is regressed on its own,
as budgets are spread over groups in another way.

References
----------
A. Jordao, R. Kloss, F. Yamada, W. R. Schwartz, "Pruning Deep Neural Networks using Partial Least
Squares", arXiv:1810.07610, 2018.
"""

import warnings

import numpy as np

from onnx_reap.prune.criteria.observation import Matrix, Observation, Order

COMPONENTS = 2
ROUNDING = 1e-6  # of the largest value, in float32


def order(observed: Observation) -> Order:
    """Let units go by their importance in projection, least first."""
    if not len(observed.features):
        return np.arange(observed.width)
    return np.argsort(importances(observed.features, observed.responses), kind="stable")


def importances(features: Matrix, responses: Matrix) -> Matrix:
    """Return the Variable Importance in Projection of features.

    Parameters
    ----------
    features : (N, U) array
    responses : (N, K) array

    Returns
    -------
    (U,) array
        Zeros where nothing varies.
    """
    from sklearn.cross_decomposition import PLSRegression

    found = np.zeros(features.shape[1])
    vary, answer = (
        np.flatnonzero(x.std(axis=0) > ROUNDING * np.abs(x).max(axis=0))
        for x in (features, responses)
    )
    if len(vary) == 0 or len(answer) == 0:
        return found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a second component that has nothing left to explain
        method = PLSRegression(min(COMPONENTS, len(vary)), tol=1e-10, max_iter=5000)
        fit = method.fit(features[:, vary], responses[:, answer])
    weights = fit.x_weights_ / np.maximum(np.linalg.norm(fit.x_weights_, axis=0), 1e-300)
    strength = np.square(fit.x_scores_).sum(axis=0) * np.square(fit.y_loadings_).sum(axis=0)
    found[vary] = np.sqrt(len(found) * (np.square(weights) @ strength) / strength.sum())
    return found
