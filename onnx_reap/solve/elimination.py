"""Block elimination: every unit's post-refit removal error, kept up to date as units are removed.

One consumer has weight W and damped Gram matrix G of its inputs; P = G^-1 is the Gram matrix of the
dual (biorthogonal) basis. Removing unit j, and refitting all other weights, costs

    e_j = tr(W_j^T P_jj^-1 W_j)

and leaves  P - P_:j P_jj^-1 P_j:  and  W - P_:j P_jj^-1 W_j  in place of P and W [1]_ (the error
and the update of block Optimal Brain Surgeon). All that is asked of W are products of its rows,
A = W W^T. With P_jj = C C^T, p = C^-1 P_j:, q = C^-1 A_j: - E p / 2 and E = C^-1 A_jj C^-T these
updates are

    P - p^T p,     A - p^T q - q^T p     and     e_j = tr E:

a block Cholesky factorisation of P whose pivots are the removed units and which takes A along.
Pairs (p, q) are gathered in panels, and a full one is multiplied at once, since small updates of
large matrices only wait for memory; until then a unit's rows of P and A are brought up to date when
it is removed. The diagonal blocks, which every candidate needs at every step, always are.

References
----------
.. [1] K. Kamma, T. Wada, "REAP: A Method for Pruning Convolutional Neural Networks with Performance
       Preservation", IEICE Trans. Inf. & Syst. E104-D(1), 2021.
"""

import array_api_compat as compat
import numpy as np

from onnx_reap.solve.backend import Array, on_device

PANEL = 128  # rows of p and q that are gathered
WORTH = 0.9  # of the units left: with fewer the matrices are made smaller


class Elimination:
    """The state of one consumer while units are removed from it.

    Parameters
    ----------
    P : array, shape (S * B, S * B), float64
        Inverse of the damped Gram matrix, restricted to the columns of S units of B columns each.
        Overwritten.
    W : array, shape (S * B, O), float64
        Rows of the weight that belong to these columns.
    block : int
        B, the columns of a unit.
    """

    def __init__(self, P: Array, W: Array, block: int) -> None:
        self._B = block
        self._P, self._A = P, W @ W.T
        self._P_jj, self._M_jj = (_diagonal_blocks(z, block) for z in (self._P, self._A))
        self._present = np.arange(P.shape[0] // block)  # units that the matrices hold
        self._gone: set[int] = set()
        self._place = on_device(self._present, like=P)
        self._start_panel()

    def scores(self) -> Array:
        """Return e_j of every unit: array, shape (S,), float64; of units that are gone, nothing."""
        xp = compat.array_namespace(self._P)
        if self._B == 1:  # a batch of solves takes far longer
            own = (self._M_jj / self._P_jj)[:, 0, 0]
        else:
            own = xp.linalg.trace(xp.linalg.solve(self._P_jj, self._M_jj))
        nothing = xp.zeros(1, dtype=own.dtype, device=compat.device(own))
        return xp.take(xp.concat([own, nothing]), self._place)

    def remove(self, j: int) -> Array:
        """Remove unit j and return its e_j: array, shape (), float64."""
        xp = compat.array_namespace(self._P)
        k, B = int(np.searchsorted(self._present, j)), self._B
        rows, old = slice(k * B, (k + 1) * B), slice(0, self._filled)
        p, q = self._p[old, :], self._q[old, :]
        p_j, q_j = p[:, rows], q[:, rows]

        C_inverse = xp.linalg.inv(xp.linalg.cholesky(self._P_jj[k, ...]))
        E = C_inverse @ self._M_jj[k, ...] @ C_inverse.T
        p_new = C_inverse @ (self._P[rows, :] - p_j.T @ p)
        q_new = C_inverse @ (self._A[rows, :] - p_j.T @ q - q_j.T @ p) - E @ p_new / 2
        new = slice(self._filled, self._filled + B)
        self._p[new, :], self._q[new, :] = p_new, q_new
        self._update_diagonal(p_new, q_new, k)

        self._gone.add(j)
        self._filled += B
        if self._filled == self._p.shape[0]:
            self._apply_panel()
        return xp.linalg.trace(E)

    def _update_diagonal(self, p: Array, q: Array, k: int) -> None:
        xp = compat.array_namespace(p)
        B, shape = self._B, (self._B, -1, self._B)
        p_u, q_u = (xp.permute_dims(xp.reshape(z, shape), (1, 2, 0)) for z in (p, q))
        p_t = xp.matrix_transpose(p_u)
        qp = q_u @ p_t
        self._P_jj -= p_u @ p_t
        self._M_jj -= qp + xp.matrix_transpose(qp)
        self._P_jj[k, ...] = xp.eye(B, dtype=p.dtype, device=compat.device(p))
        self._M_jj[k, ...] = 0.0

    def _start_panel(self) -> None:
        xp = compat.array_namespace(self._P)
        shape = (max(PANEL // self._B, 1) * self._B, self._P.shape[0])
        self._p, self._q = (
            xp.zeros(shape, dtype=self._P.dtype, device=compat.device(self._P)) for _ in range(2)
        )
        self._filled = 0

    def _apply_panel(self) -> None:
        left = np.flatnonzero(~np.isin(self._present, list(self._gone)))
        if len(left) <= WORTH * len(self._present):
            self._leave_out_all_but(left)
        p, q = self._p, self._q
        self._P -= p.T @ p
        product = p.T @ q
        self._A -= product
        self._A -= product.T
        self._start_panel()

    def _leave_out_all_but(self, left: np.ndarray) -> None:
        xp = compat.array_namespace(self._P)
        columns = (left[:, None] * self._B + np.arange(self._B)).ravel()
        index, units = (on_device(x, like=self._P) for x in (columns, left))
        self._P, self._A = (
            xp.take(xp.take(z, index, axis=0), index, axis=1) for z in (self._P, self._A)
        )
        self._p, self._q = (xp.take(z, index, axis=1) for z in (self._p, self._q))
        self._P_jj, self._M_jj = (xp.take(z, units, axis=0) for z in (self._P_jj, self._M_jj))
        self._present = self._present[left]
        place = np.full(self._place.shape[0], len(left))
        place[self._present] = np.arange(len(left))
        self._place = on_device(place, like=self._P)


def _diagonal_blocks(z: Array, block: int) -> Array:
    """Return the (S, B, B) blocks along the diagonal, as an array of their own."""
    xp = compat.array_namespace(z)
    units = z.shape[0] // block
    blocks = xp.permute_dims(xp.reshape(z, (units, block, units, block)), (1, 3, 0, 2))
    diagonal = xp.permute_dims(xp.linalg.diagonal(blocks), (2, 0, 1))
    return xp.asarray(diagonal, copy=True)
