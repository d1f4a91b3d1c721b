"""Block elimination: every unit's post-refit removal error, kept up to date as units are removed.

One consumer has weight W and damped Gram matrix G of its inputs; P = G^-1 is the Gram matrix of the
dual (biorthogonal) basis. Removing unit j, and refitting all other weights, costs

    e_j = tr(W_j^T P_jj^-1 W_j)

and leaves  P - P_:j P_jj^-1 P_j:  and  W - P_:j P_jj^-1 W_j  in place of P and W [1]_ (the error
and the update of block Optimal Brain Surgeon). With P_jj = C C^T, p = P_:j C^-T and v = C^-1 W_j
these are  P - p p^T  and  W - p v,  and e_j = |v|^2: a block Cholesky factorisation of P whose
pivots are the removed units and which takes W along as extra columns. It looks left: P and W stay
untouched, the pairs (p^T, v) are stacked in L and V, and only a pivot's block row is brought up to
date, when it is needed: P_j: - L_:j^T L. What every candidate needs at every step is small, the
diagonal blocks of P and of M = W W^T, and is updated in place.

References
----------
.. [1] K. Kamma, T. Wada, "REAP: A Method for Pruning Convolutional Neural Networks with Performance
       Preservation", IEICE Trans. Inf. & Syst. E104-D(1), 2021.
"""

from __future__ import annotations

import array_api_compat as compat

from onnx_reap.solve.backend import Array


class Elimination:
    """The state of one consumer while units are removed from it.

    Parameters
    ----------
    P : array, shape (S * B, S * B), float64
        Inverse of the damped Gram matrix, restricted to the columns of S units of B columns each.
    W : array, shape (S * B, O), float64
        Rows of the weight that belong to these columns.
    block : int
        B, the columns of a unit.
    steps : int
        The most removals that will be asked for.
    """

    def __init__(self, P: Array, W: Array, block: int, steps: int) -> None:
        xp = compat.array_namespace(P, W)
        S, B = P.shape[0] // block, block
        self._P, self._W = P, W
        diagonal = xp.linalg.diagonal(xp.permute_dims(xp.reshape(P, (S, B, S, B)), (1, 3, 0, 2)))
        self._P_jj = xp.asarray(xp.permute_dims(diagonal, (2, 0, 1)), copy=True)
        W_j = xp.reshape(W, (S, B, W.shape[1]))
        self._M_jj = W_j @ xp.matrix_transpose(W_j)
        self._L = xp.zeros((steps * B, S * B), dtype=P.dtype, device=compat.device(P))
        self._V = xp.zeros((steps * B, W.shape[1]), dtype=P.dtype, device=compat.device(P))
        self._filled = 0

    def scores(self) -> Array:
        """Return e_j of every unit: array, shape (S,), float64; 0 for units that are gone."""
        xp = compat.array_namespace(self._P)
        if self._P_jj.shape[-1] == 1:  # most layers; a batch of solves takes far longer
            return (self._M_jj / self._P_jj)[:, 0, 0]
        return xp.linalg.trace(xp.linalg.solve(self._P_jj, self._M_jj))

    def remove(self, j: int) -> Array:
        """Remove unit j and return its e_j: array, shape (), float64."""
        xp = compat.array_namespace(self._P)
        S, B, _ = self._P_jj.shape
        rows, old = slice(j * B, (j + 1) * B), slice(0, self._filled)
        new = slice(self._filled, self._filled + B)
        L, V = self._L[old, :], self._V[old, :]
        L_j = L[:, rows]

        C_inverse = xp.linalg.inv(xp.linalg.cholesky(self._P_jj[j, ...]))
        v = C_inverse @ (self._W[rows, :] - L_j.T @ V)
        # One product, since reading L is what takes the time.
        from_P, from_W = _halves(xp.concat([L_j, V @ v.T], axis=1).T @ L)
        p = C_inverse @ (self._P[rows, :] - from_P)  # p^T, shape (B, S * B)
        c = v @ self._W.T - from_W  # (W v^T)^T with W as it is now
        self._L[new, :], self._V[new, :] = p, v
        self._filled += B

        # (W - p v)(W - p v)^T = M - q p^T - p q^T, with q = W v^T - p v v^T / 2
        q_u, p_u = (
            xp.permute_dims(xp.reshape(z, (B, S, B)), (1, 2, 0)) for z in (c - v @ v.T @ p / 2, p)
        )
        p_t = xp.matrix_transpose(p_u)
        qp = q_u @ p_t
        self._P_jj -= p_u @ p_t
        self._M_jj -= qp + xp.matrix_transpose(qp)
        self._P_jj[j, ...] = xp.eye(B, dtype=p.dtype, device=compat.device(p))
        self._M_jj[j, ...] = 0.0
        return xp.sum(v * v)


def _halves(x: Array) -> tuple[Array, Array]:
    """Split the rows in two."""
    half = x.shape[0] // 2
    return x[:half, :], x[half:, :]
