"""Slice = mask on the nine architectures inside of the onnx wheel."""

import numpy as np
import onnx
import pytest
from light import NAMES, filled
from oracle import CPU, assert_close, assert_interface, choose, feed, study, widths_left

from onnx_reap.onnxio.session import run, session

# Sums of up to 25,088 products, 121 layers deep, in another order.
TOLERANCE = 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_half_of_the_channels(name):
    proto = filled(name)
    studied = study(proto)
    removed = choose(studied.groups, 0.5)
    models = studied.model.light, studied.light_mask(removed), studied.light_cut(removed)
    # One session each, without copies: weights of half a gigabyte take longest.
    given, without, narrow = (session(each, CPU, shares=True) for each in models)
    first, second = (run(without, None, feed(proto, 1, seed)) for seed in (7, 8))
    kept = run(narrow, None, feed(proto, 1, 7))
    assert kept.keys() == first.keys()
    for name, have in kept.items():
        assert_close(name, first[name], have, TOLERANCE)
    last = list(first)[-1]
    largest = np.abs(first[last]).max()
    assert np.abs(first[last] - second[last]).max() > 0.01 * largest, "the input is not felt"
    whole = run(given, None, feed(proto, 1, 7))[last]
    assert np.abs(whole - first[last]).max() > 1e-3 * largest, "the removal is not felt"
    cut = models[-1].whole()
    assert_interface(proto, cut)
    onnx.checker.check_model(cut, full_check=True)
    off = 1 - studied.macs.at(widths_left(studied.groups, removed)) / studied.macs.at(
        studied.widths
    )
    assert off >= 0.4, f"{off:.1%} of MACs off; frozen: {studied.frozen}"


def test_there_are_nine():
    assert len(NAMES) == 9
