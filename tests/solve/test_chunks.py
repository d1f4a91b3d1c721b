"""Lots are as large as they may be, and no larger."""

from __future__ import annotations

import pytest

from onnx_reap.solve.chunks import in_chunks


@pytest.mark.parametrize(
    ("sizes", "most", "lots"),
    [
        ([], 5, []),
        ([2, 3, 1], 5, [[2, 3], [1]]),
        ([9, 1, 4, 9], 5, [[9], [1, 4], [9]]),
        ([1, 1, 1], 100, [[1, 1, 1]]),
    ],
)
def test_lots(sizes: list[int], most: int, lots: list[list[int]]):
    assert list(in_chunks(sizes, lambda size: size, most)) == lots
