"""The oracle itself (law 8): it fails on a doubled output, a shifted index, and frozen channels."""

import numpy as np
import onnx
import pytest
from net import sandwich
from onnx import numpy_helper
from oracle import assert_differs, assert_same_function, assert_slice_is_mask, choose, study

from onnx_reap.graph.labels.kept import kept_positions


def _relu(net, x):
    return net("Relu", x)


def _replaced(proto: onnx.ModelProto, name: str, change) -> onnx.ModelProto:
    out = onnx.ModelProto()
    out.CopyFrom(proto)
    tensor = next(t for t in out.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))
    return out


def test_passes_on_a_plain_cut():
    assert_slice_is_mask(sandwich(_relu), groups={"a": 8})


def test_fails_on_a_doubled_output():
    studied = study(sandwich(_relu))
    removed = choose(studied.groups, 0.5)
    doubled = _replaced(studied.cut(removed), "c2", lambda w: 2 * w)
    with pytest.raises(AssertionError, match="off by"):
        assert_same_function(studied.mask(removed), doubled)


def test_fails_on_a_shifted_index():
    studied = study(sandwich(_relu))
    removed = choose(studied.groups, 0.5)
    whole = next(t for t in studied.proto.graph.initializer if t.name == "c2")
    _, stays = kept_positions(studied.flow, removed)["a_y"]
    shifted = numpy_helper.to_array(whole)[:, (stays + 1) % 8]
    with pytest.raises(AssertionError, match="off by"):
        assert_same_function(
            studied.mask(removed), _replaced(studied.cut(removed), "c2", lambda w: shifted)
        )


def test_fails_on_a_revived_bias():
    """Zeroing the producer's weight is not a mask: its bias still flows."""
    studied = study(sandwich(_relu))
    removed = choose(studied.groups, 0.5)
    _, stays = kept_positions(studied.flow, removed)["a_y"]
    gone = np.setdiff1d(np.arange(8), stays)

    def zeroed(weight):
        weight = weight.copy()
        weight[gone] = 0
        return weight

    with pytest.raises(AssertionError, match="off by"):
        assert_same_function(_replaced(studied.proto, "c0", zeroed), studied.cut(removed))


def test_fails_where_all_is_frozen():
    with pytest.raises(AssertionError):
        assert_slice_is_mask(sandwich(lambda net, x: net("Softmax", x, axis=1)), groups={"a": 8})


def test_fails_where_the_removal_is_not_felt():
    proto = sandwich(_relu)
    with pytest.raises(AssertionError, match="feel"):
        assert_differs(proto, proto)
