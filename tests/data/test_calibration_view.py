import numpy as np
import pytest
from data_helpers import collect, pixels, spec
from hypothesis import given
from hypothesis import strategies as st

from onnx_reap.data import open_calibration
from onnx_reap.errors import ReapError

ROWS = np.arange(40, dtype=np.float32).reshape(10, 4)


@pytest.fixture
def calibration():
    return open_calibration(ROWS, [spec(None, 4)])


def test_batches_hold_all_samples_in_order_each_time(calibration):
    sizes = [len(feed["x"]) for feed in calibration.batches(4)]
    assert sizes == [4, 4, 2]
    for _ in range(2):
        np.testing.assert_array_equal(collect(calibration), ROWS)


def test_feeds_are_contiguous_and_of_the_models_dtype():
    nhwc = pixels(5, 6, 8, 3)
    feed = next(open_calibration(nhwc, [spec(None, 3, 6, 8)]).batches(5))["x"]
    assert feed.dtype == np.float32
    assert feed.flags.c_contiguous


def test_padding_repeats_the_samples_of_the_last_batch(calibration):
    *_, last = calibration.batches(4, pad=True)
    np.testing.assert_array_equal(last["x"], ROWS[[8, 9, 8, 9]])


def test_padding_fills_a_batch_larger_than_the_set(calibration):
    (only,) = calibration.batches(16, pad=True)
    assert len(only["x"]) == 16
    np.testing.assert_array_equal(only["x"][:10], ROWS)


@given(n=st.integers(2, 30), fraction=st.floats(0, 1), seed=st.integers(0, 5))
def test_split_is_disjoint_complete_ordered_and_seeded(n, fraction, seed):
    data = np.arange(n, dtype=np.float32)[:, None]
    calibration = open_calibration(data, [spec(None, 1)])
    parts = [collect(part).ravel().tolist() for part in calibration.split(fraction, seed)]
    again = [collect(part).ravel().tolist() for part in calibration.split(fraction, seed)]
    assert parts == again
    assert sorted(parts[0] + parts[1]) == list(range(n))
    assert all(part and part == sorted(part) for part in parts)
    assert abs(len(parts[1]) - fraction * n) <= 1


def test_another_seed_splits_otherwise(calibration):
    one, other = (collect(calibration.split(0.5, seed)[0]) for seed in (0, 1))
    assert one.tolist() != other.tolist()


def test_take_chooses_at_most_n_in_order(calibration):
    taken = collect(calibration.take(6, seed=3))[:, 0]
    assert len(set(taken)) == 6
    assert taken.tolist() == sorted(taken)
    assert taken.tolist() == collect(calibration.take(6, seed=3))[:, 0].tolist()
    assert taken.tolist() != collect(calibration.take(6, seed=4))[:, 0].tolist()
    assert len(calibration.take(99, seed=0)) == 10


def test_views_nest(calibration):
    fit, held_out = calibration.take(8, seed=0).split(0.25, seed=0)
    assert (len(fit), len(held_out)) == (6, 2)
    assert fit.origin == "ndarray (6 of 10 samples)"


def test_one_sample_cannot_be_split():
    calibration = open_calibration(ROWS[:1], [spec(None, 4)])
    with pytest.raises(ReapError) as caught:
        calibration.split(0.5, seed=0)
    assert str(caught.value) == (
        "--data has too few samples to hold some out | got: ndarray (1 sample) "
        "| expected: 2 samples or more"
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_sample(bad):
    rows = ROWS.copy()
    rows[7, 2] = bad
    with pytest.raises(ReapError) as caught:
        collect(open_calibration(rows, [spec(None, 4)]).take(9, seed=0), size=2)
    assert str(caught.value) == (
        f"--data: input 'x' has NaN or infinite values in sample 7 | got: {bad} as float32 "
        "| expected: finite values "
        "| try: mend the sample or leave it out, or --scale values that are too large"
    )


def test_values_that_float16_cannot_hold_are_refused():
    with pytest.raises(ReapError, match=r"sample 0 \| got: inf as float16"):
        collect(open_calibration(ROWS + 1e6, [spec(None, 4, dtype="float16")]))


def test_only_what_is_read_is_converted(monkeypatch):
    """Opening, splitting and taking touch no sample; a batch touches its own."""
    seen = []
    calibration = open_calibration(ROWS, [spec(None, 4)])
    read = calibration._source.read
    monkeypatch.setattr(
        calibration._source, "read", lambda indices: seen.extend(indices) or read(indices)
    )
    batches = calibration.take(8, seed=0).split(0.5, seed=0)[0].batches(2)
    assert seen == []
    next(batches)
    assert len(seen) == 2


def test_values_that_all_samples_share():
    feeds = [
        {"x": ROWS[k : k + 1], "rate": np.array(16000), "step": np.array(k), "one": ROWS[:1, 1]}
        for k in range(5)
    ]
    inputs = [
        spec(1, 4),
        spec(name="rate", dtype="int64"),
        spec(name="step", dtype="int64"),
        spec(1, name="one"),
    ]
    found = open_calibration(feeds, inputs)
    assert (found.feeds() or found).same_values() == {"rate": 16000, "one": 1.0}
