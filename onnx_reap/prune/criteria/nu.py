"""Neuro-Unification: a unit goes that another one behaves like, which then emulates it.

A unit's behaviour x_i is the vector of all its values on real inputs. The best that unit i does for
unit j in the layers behind is a x_i, a = <x_i, x_j> / |x_i|^2, with W_i += a W_j and the error

    |W_j|^2 |x_j|^2 (1 - cos^2(x_i, x_j)).

The pair of least error is unified, and so on with the weights as they then are.

References
----------
K. Kamma, Y. Isoda, S. Inoue, T. Wada, "Neural Behavior-Based Approach for Neural Network Pruning",
IEICE Trans. Inf. & Syst. E103-D(5), 2020.
"""

import numpy as np

from onnx_reap.prune.criteria.balance import greedily
from onnx_reap.prune.criteria.observation import Matrix, Observation
from onnx_reap.prune.criteria.ranking import MergeTarget, Ranking


def rank(observed: Observation) -> Ranking:
    """Let units go that another one emulates best, pair by pair."""
    pairs = _Pairs(observed)
    order = greedily(observed, pairs.errors, pairs.unify)
    return Ranking(order.tolist(), pairs.targets)


class _Pairs:
    """Weights and behaviours while units are unified."""

    def __init__(self, observed: Observation) -> None:
        self.targets: dict[int, MergeTarget] = {}
        self._weight = np.concatenate(
            [np.zeros((observed.width, 0)), *(r.outgoing for r in observed.readers)], axis=1
        )
        self._norms = np.square(self._weight).sum(axis=1)
        self._inner = observed.behaviours()
        self._power = self._inner.diagonal().copy()
        squares = np.where(self._power > 0, self._power, 1.0)[:, None]
        rest = np.maximum(self._power - self._inner**2 / squares, 0.0)
        reads = np.array([r.reads for r in observed.readers], float).reshape(-1, observed.width)
        missed = (1 - reads).T @ reads > 0  # i isn't read everywhere that j is
        self._rest = np.where(missed | np.eye(observed.width, dtype=bool), np.inf, rest)
        self._best = self._rest.argmin(axis=0)

    def errors(self) -> Matrix:
        """Return, by unit j, the error once its best emulator has taken over, if there is any."""
        rest = np.take_along_axis(self._rest, self._best[None], axis=0)[0]
        result: Matrix = self._norms * np.minimum(rest, self._power)
        return result

    def unify(self, j: int) -> None:
        """Let the best emulator of j take over."""
        i = int(self._best[j])
        if self._rest[i, j] < np.inf and self._power[i] > 0:
            self.targets[j] = MergeTarget(i, float(self._inner[i, j] / self._power[i]))
            self._weight[i] += self.targets[j].share * self._weight[j]
            self._norms[i] = np.square(self._weight[i]).sum()
        self._rest[j] = np.inf
        orphans = np.flatnonzero(self._best == j)
        self._best[orphans] = self._rest[:, orphans].argmin(axis=0)
