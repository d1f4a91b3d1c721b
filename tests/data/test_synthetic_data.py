import numpy as np
import pytest
from data_helpers import collect, spec

from onnx_reap.data import Preprocess, synthetic_calibration
from onnx_reap.errors import ReapError

IMAGE = spec(None, 3, 32, 32)


def draw(model, samples=64, seed=0, preprocess=Preprocess()):  # noqa: B008 - frozen
    return collect(synthetic_calibration([model], preprocess, samples=samples, seed=seed))


def test_a_sample_depends_on_nothing_but_seed_and_number():
    all_of_them = draw(IMAGE, 9)
    np.testing.assert_array_equal(draw(IMAGE, 5), all_of_them[:5])
    calibration = synthetic_calibration([IMAGE], samples=9, seed=0)
    np.testing.assert_array_equal(collect(calibration, size=1), all_of_them)
    assert not np.array_equal(draw(IMAGE, 9, seed=1), all_of_them)
    assert len(np.unique(all_of_them[:, 0, 0, 0])) == 9


def test_images_look_natural():
    images = draw(IMAGE, 300)
    assert images.dtype == np.float32
    # Standard errors over 300 images of brightness variance 1/4 lie near 0.03.
    assert abs(images.mean()) < 0.15
    assert abs(images.std() - 1) < 0.15
    # Natural spectra fall as 1/f: fourfold amplitude at a fourth of the frequency.
    power = np.abs(np.fft.fft(images, axis=-1)).mean((0, 1, 2))
    assert 2 < power[2] / power[8] < 8
    red, green, blue = images.transpose(1, 0, 2, 3).reshape(3, -1)
    assert np.corrcoef(red, green)[0, 1] > 0.8
    assert np.corrcoef(red, blue)[0, 1] > 0.8
    assert images.mean((1, 2, 3)).std() > 0.3
    assert np.log(images.std((1, 2, 3))).std() > 0.2


def test_layouts_hold_the_same_images():
    np.testing.assert_array_equal(draw(spec(None, 32, 32, 3)), draw(IMAGE).transpose(0, 2, 3, 1))


def test_grey_oblong_and_tiny_images():
    assert draw(spec(None, 1, 5, 40)).shape == (64, 1, 5, 40)
    assert np.isfinite(draw(spec(None, 3, 1, 1))).all()


def test_flags_get_pixels():
    pixels = draw(spec(None, 3, 32, 32, dtype="uint8"))
    assert pixels.dtype == np.uint8
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert abs(pixels.mean() - 115) < 15
    scaled = draw(IMAGE, preprocess=Preprocess(scale=1 / 255))
    np.testing.assert_allclose(scaled, pixels / 255, rtol=1e-6)  # one rounding in float32


def test_other_inputs():
    normal = draw(spec(None, 50), 200)
    assert abs(normal.mean()) < 0.05  # standard error 0.01
    assert abs(normal.std() - 1) < 0.05
    np.testing.assert_array_equal(draw(spec(None, 50), 200, preprocess=Preprocess(mean=5)), normal)
    for dtype in ("int64", "bool"):
        values = draw(spec(None, 50, dtype=dtype))
        assert values.dtype == dtype
        assert set(np.unique(values).tolist()) == {0, 1}


def test_several_inputs_differ_and_scalars_have_no_batch_axis():
    inputs = [spec(None, 9, name="a"), spec(None, 9, name="b"), spec(name="c")]
    calibration = synthetic_calibration(inputs, samples=6, seed=0)
    feeds = list(calibration.batches(4))
    assert [feed["c"].shape for feed in feeds] == [(), ()]
    assert feeds[0]["c"] == feeds[1]["c"]
    assert not np.array_equal(feeds[0]["a"], feeds[0]["b"])
    assert calibration.shapes == {"a": (9,), "b": (9,), "c": ()}


def test_dynamic_sizes_come_from_the_crop():
    dynamic = spec(None, 3, None, None)
    assert draw(dynamic, 2, preprocess=Preprocess(crop=8)).shape == (2, 3, 8, 8)


def test_dynamic_sizes_that_nothing_tells_are_refused():
    with pytest.raises(ReapError) as caught:
        draw(spec(None, 3, None, None))
    assert str(caught.value) == (
        "synthetic samples need to know their shape, and the model's input is dynamic "
        "| got: x float32 (N, 3, ?, ?) | try: --data, or --input-shapes x:1,3,?,? with sizes for ?"
    )


def test_all_open_inputs_are_named():
    inputs = [spec(None, None, 3, name="a"), spec(None, 3, name="b"), spec(4, None, name="c")]
    with pytest.raises(ReapError) as caught:
        synthetic_calibration(inputs, samples=2, seed=0)
    assert str(caught.value) == (
        "synthetic samples need to know their shapes, and the model's inputs are dynamic "
        "| got: a float32 (N, ?, 3), c float32 (4, ?) "
        "| try: --data, or --input-shapes a:1,?,3 --input-shapes c:4,? with sizes for ?"
    )


def test_what_is_looked_up_is_drawn_uniformly():
    ids = draw(spec(None, 50, dtype="int64", lookup=(3, 9)), 40)
    values, counts = np.unique(ids, return_counts=True)
    assert values.tolist() == [3, 4, 5, 6, 7, 8]
    assert counts.min() > 250  # of 2000 in six: 333, with a standard deviation of 17
    texts = draw(spec(None, 50, dtype=object, lookup=("a", "b")), 4)
    assert set(texts.ravel()) == {"a", "b"}
    assert all(isinstance(text, str) for text in draw(spec(None, 5, dtype=object), 2).ravel())
    inputs = [spec(None, 5, name="ids", dtype="int64", lookup=(0, 9)), spec(None, 2)]
    (note,) = synthetic_calibration(inputs, samples=2, seed=0).notes
    assert note.endswith("drawn uniformly: ids (0 to 8)")


def test_the_user_is_warned():
    calibration = synthetic_calibration([IMAGE], samples=64, seed=0)
    assert calibration.origin == "synthetic (64 samples)"
    (note,) = calibration.notes
    assert note.startswith("no --data: ")


def test_inputs_whose_first_axis_is_no_batch_are_drawn_once():
    inputs = [spec(None, 3), spec(2, 1, 4, name="state"), spec(3, 2, 4, 4, name="maps")]
    calibration = synthetic_calibration(inputs, samples=6, seed=0)
    feeds = list(calibration.batches(4))
    assert [feed["x"].shape for feed in feeds] == [(4, 3), (2, 3)]
    assert feeds[0]["state"].shape == calibration.shapes["state"] == (2, 1, 4)
    assert feeds[0]["maps"].shape == (3, 2, 4, 4)
    np.testing.assert_array_equal(feeds[0]["state"], feeds[1]["state"])
    (state,) = (
        f["state"] for f in synthetic_calibration(inputs[1:2], samples=2, seed=0).batches(2)
    )
    assert len(state) == 2  # of a model of one input it is samples
    with pytest.raises(ReapError, match="need to know their shape"):
        synthetic_calibration([inputs[0], spec(2, None, 4, name="state")], samples=6, seed=0)


def test_values_that_are_known_are_fed():
    rate = spec(None, 1, name="rate", dtype="int64", value=16000)
    flag = spec(name="flag", dtype="bool", value=True)
    feed = next(synthetic_calibration([rate, flag], samples=3, seed=0).batches(3))
    assert feed["rate"].tolist() == [[16000]] * 3 and feed["rate"].dtype == np.int64
    assert feed["flag"].tolist() is True
