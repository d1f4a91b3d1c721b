"""The slow, obvious way: one least-squares problem on explicit rows per question."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_reap.solve.removal import Consumer


@dataclass(frozen=True)
class Problem:
    """A consumer with the rows that its Gram matrix came from."""

    x: np.ndarray  # (n, D), centred
    weight: np.ndarray  # (D, O)
    columns: np.ndarray  # (U, B)

    @property
    def gram(self) -> np.ndarray:
        return self.x.T @ self.x / len(self.x)

    def consumer(self, put: Callable[[Any], Any] = np.asarray) -> Consumer:
        return Consumer(put(self.gram), put(self.weight), put(self.columns))


def problem(
    rng: np.random.Generator,
    columns: Any,
    *,
    fixed: int = 0,
    rows: int = 200,
    outputs: int = 5,
) -> Problem:
    """Correlated inputs of unequal scale, with `fixed` columns that no unit owns."""
    columns = np.asarray(columns)
    D = int(columns.max()) + 1 + fixed
    x = rng.normal(size=(rows, D)) @ rng.normal(size=(D, D)) * rng.uniform(0.1, 3, D)
    return Problem(x - x.mean(axis=0), rng.normal(size=(D, outputs)), columns)


def constrained_error(problems: Sequence[Problem], gone: Iterable[int], damping: float) -> float:
    """Refit all kept columns by least squares on damped rows; the summed error."""
    gone = list(gone)
    return sum(_error(p, p.columns[gone].ravel(), damping) for p in problems)


def _error(p: Problem, columns: np.ndarray, damping: float) -> float:
    D = p.x.shape[1]
    kept = np.setdiff1d(np.arange(D), columns)
    strength = damping * np.mean(p.x**2)
    rows = np.concatenate([p.x / np.sqrt(len(p.x)), np.sqrt(strength) * np.eye(D)])
    live = (p.x**2).mean(axis=0) > 1e-15 * np.mean(p.x**2)
    target = rows @ (p.weight * live[:, None])
    refitted = np.linalg.lstsq(rows[:, kept], target, rcond=None)[0]
    return float(np.sum((target - rows[:, kept] @ refitted) ** 2))


def naive_path(problems: Sequence[Problem], steps: int, damping: float) -> tuple[list, list]:
    """Greedy removal that solves every candidate's least-squares problem at every step."""
    order: list[int] = []
    errors = []
    for _ in range(steps):
        left = [u for u in range(len(problems[0].columns)) if u not in order]
        costs = [constrained_error(problems, [*order, u], damping) for u in left]
        order.append(left[int(np.argmin(costs))])
        errors.append(min(costs))
    return order, errors
