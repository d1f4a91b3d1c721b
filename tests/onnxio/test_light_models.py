"""Slice = mask on the nine architectures inside of the onnx wheel."""

import numpy as np
import onnx
import pytest
from light import NAMES, filled
from oracle import (
    CPU,
    assert_differs,
    assert_interface,
    assert_same_function,
    choose,
    feed,
    study,
    widths_left,
)

from onnx_reap.onnxio.session import run, session

# Sums of up to 25,088 products, 121 layers deep, in another order.
TOLERANCE = 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_half_of_the_channels(name):
    proto = filled(name)
    studied = study(proto)
    removed = choose(studied.groups, 0.5)
    masked, cut = studied.mask(removed), studied.cut(removed)
    assert_same_function(masked, cut, tolerance=TOLERANCE)
    first, second = (_last_output(masked, seed) for seed in (7, 8))
    assert np.abs(first - second).max() > 0.01 * np.abs(first).max(), "the input is not felt"
    assert_differs(proto, masked)
    assert_interface(proto, cut)
    onnx.checker.check_model(cut, full_check=True)
    off = 1 - studied.macs.at(widths_left(studied.groups, removed)) / studied.macs.at(
        studied.widths
    )
    assert off >= 0.4, f"{off:.1%} of MACs off; frozen: {studied.frozen}"


def _last_output(proto: onnx.ModelProto, seed: int) -> np.ndarray:
    return list(run(session(proto, CPU), None, feed(proto, 1, seed)).values())[-1]


def test_there_are_nine():
    assert len(NAMES) == 9
