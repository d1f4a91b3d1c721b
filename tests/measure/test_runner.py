"""What pads the last batch of a model with a fixed batch size is left out, wherever it lies."""

import numpy as np
import pytest

from onnx_reap.measure.runner import own_samples

BATCH, OWN = 4, 3


@pytest.mark.parametrize("front", [1, 2, 6])
@pytest.mark.parametrize("each", [(), (5,), (2, 5)])
def test_samples_of_its_own_are_left(front, each):
    """Also where they share an axis with what lies in front of them, or behind."""
    whole = np.random.default_rng(0).standard_normal((front, BATCH, *each))
    own = whole[:, :OWN]
    for shape in ([-1, *each], *([[front, -1, *each], [front, -1]] if front > 1 else [])):
        found = own_samples(whole.reshape(shape), OWN, BATCH, front)
        np.testing.assert_array_equal(found, own.reshape(shape))
    if front == 6:
        found = own_samples(whole.reshape(2, 3, BATCH, *each), OWN, BATCH, front)
        np.testing.assert_array_equal(found, own.reshape(2, 3, OWN, *each))
        found = own_samples(whole.reshape(2, 3 * BATCH, *each), OWN, BATCH, front)
        np.testing.assert_array_equal(found, own.reshape(2, 3 * OWN, *each))


@pytest.mark.parametrize("shape", [(), (3, 4), (3, 5, 2)])
def test_what_holds_no_samples_stays(shape):
    x = np.zeros(shape)
    assert own_samples(x, OWN, BATCH) is x
    assert own_samples(x, OWN, BATCH, 15) is x
