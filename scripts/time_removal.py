"""Time removal paths against one matrix inverse, and against the naive way at a small size.

The naive way solves one least-squares problem per candidate and step. All times are of one run on
one machine; the inverse is repeated before and after, since other load shifts it. On a busy machine
set OPENBLAS_NUM_THREADS=1: a path is many small products, which suffer most from waiting threads.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from onnx_reap.solve.removal import Consumer, RemovalPath, removal_path

DAMPING = 1e-3


def made_up(units: int, taps: int, outputs: int) -> Consumer:
    """Correlated inputs: a third of the directions carry most of the variance."""
    rng = np.random.default_rng(0)
    D = units * taps
    latent = rng.normal(size=(2 * D, D // 3)) @ rng.normal(size=(D // 3, D)) / np.sqrt(D // 3)
    x = latent + 0.3 * rng.normal(size=latent.shape)
    x -= x.mean(axis=0)
    columns = np.arange(D).reshape(units, taps)
    return Consumer(x.T @ x / len(x), rng.normal(size=(D, outputs)), columns)


def naive(consumer: Consumer, steps: int) -> RemovalPath:
    """Solve every candidate's least-squares problem afresh at every step."""
    A = consumer.gram + DAMPING * np.mean(np.diag(consumer.gram)) * np.eye(len(consumer.gram))
    rows = np.linalg.cholesky(A).T  # as good as the samples: the same inner products
    target = rows @ consumer.weight

    def error(gone: list[int]) -> float:
        kept = np.delete(rows, consumer.columns[gone].ravel(), axis=1)
        return float(np.sum((target - kept @ np.linalg.lstsq(kept, target)[0]) ** 2))

    order: list[int] = []
    errors = []
    for _ in range(steps):
        left = [unit for unit in range(len(consumer.columns)) if unit not in order]
        costs = [error([*order, unit]) for unit in left]
        order.append(left[int(np.argmin(costs))])
        errors.append(min(costs))
    return RemovalPath(np.asarray(order), np.asarray(errors))


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = perf_counter()
    result = call()
    return result, perf_counter() - start


def against_inverse(consumer: Consumer, steps: int, repeats: int) -> None:
    G = consumer.gram + DAMPING * np.eye(len(consumer.gram))
    print(f"{'inverse s':>10} {'path s':>8} {'ratio':>6}")
    for _ in range(repeats):
        before = timed(lambda: np.linalg.inv(G))[1]
        path = timed(lambda: removal_path([consumer], steps=steps, damping=DAMPING))[1]
        inverse = (before + timed(lambda: np.linalg.inv(G))[1]) / 2
        print(f"{inverse:10.2f} {path:8.2f} {path / inverse:6.2f}")


def against_naive(consumer: Consumer, steps: int) -> None:
    fast, fast_time = timed(lambda: removal_path([consumer], steps=steps, damping=DAMPING))
    slow, slow_time = timed(lambda: naive(consumer, steps))
    gap = np.max(np.abs(fast.errors / slow.errors - 1))
    print(
        f"naive {slow_time:.2f} s, path {fast_time:.4f} s: {slow_time / fast_time:.0f} times faster"
    )
    print(
        f"same order: {np.array_equal(fast.order, slow.order)}; errors differ by {gap:.0e} at most"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=512)
    parser.add_argument("--taps", type=int, default=9)
    parser.add_argument("--outputs", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    big = made_up(options.units, options.taps, options.outputs)
    print(f"{options.units} units x {options.taps} taps, {options.outputs} outputs, down to half:")
    against_inverse(big, options.units // 2, options.repeats)
    print("\n24 units x 9 taps, 16 outputs, down to half:")
    against_naive(made_up(24, 9, 16), 12)


if __name__ == "__main__":
    main()
