"""Which inputs hold samples, and which are fed whole."""

from __future__ import annotations

import pytest
from data_helpers import spec

from onnx_reap.data.spec import without_batch


@pytest.mark.parametrize(
    ("image", "state", "whole"),
    [
        ((None, 3, 8, 8), (2, None, 16), {"state"}),
        ((None, 3, 8, 8), (1, 16), set()),
        ((1, 3, 8, 8), (2, 1, 16), {"state"}),
        ((4, 3, 8, 8), (2, 4, 16), {"state"}),
        ((4, 3, 8, 8), (4, 16), set()),
        ((None, 3), (), set()),
    ],
)
def test_an_input_of_another_size_than_the_batch_is_whole(image, state, whole):
    inputs = [spec(*image, name="image"), spec(*state, name="state")]
    assert without_batch(inputs) == whole


def test_a_state_may_come_first():
    assert without_batch([spec(2, 1, 16, name="state"), spec(1, 3, 8, 8, name="image")]) == {
        "state"
    }
