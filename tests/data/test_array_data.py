import ml_dtypes
import numpy as np
import pytest
from data_helpers import collect, pixels, refusal, spec

from onnx_reap.data import open_calibration

NCHW, NHWC = spec(None, 3, 6, 8), spec(None, 6, 8, 3)
IMAGES = pixels(10, 3, 6, 8)


@pytest.mark.parametrize("model", [NCHW, spec(None, 3, None, None), spec(1, 3, 6, 8)])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_layout_is_told_by_shape(model, layout):
    data = IMAGES if layout == "NCHW" else IMAGES.transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(collect(open_calibration(data, [model])), IMAGES)


def test_nchw_data_suit_an_nhwc_model():
    expected = IMAGES.transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(collect(open_calibration(IMAGES, [NHWC])), expected)


def test_where_both_layouts_fit_the_models_own_wins():
    data = pixels(4, 3, 5, 3)
    calibration = open_calibration(data, [spec(None, 3, None, None)])
    np.testing.assert_array_equal(collect(calibration), data)


def test_grey_images_need_no_channel_axis():
    data = pixels(4, 6, 8)
    for model, axis in ((spec(None, 1, 6, 8), 1), (spec(None, 6, 8, 1), 3)):
        expected = np.expand_dims(data, axis)
        np.testing.assert_array_equal(collect(open_calibration(data, [model])), expected)


@pytest.mark.parametrize(
    ("sample", "model"),
    [
        (IMAGES[0], NCHW),
        (IMAGES[0].transpose(1, 2, 0), NCHW),
        (IMAGES[0, 0], spec(None, 1, 6, 8)),
        (np.ones(4), spec(None, 4)),
    ],
)
def test_a_sample_without_batch_axis_is_one_sample(sample, model):
    calibration = open_calibration(sample, [model])
    assert len(calibration) == 1
    assert collect(calibration).shape == (1, *model.shape[1:])


@pytest.mark.parametrize("stored", ["uint8", "int64", "float16", "float64", ">f4", "bool"])
@pytest.mark.parametrize("wanted", ["float16", "float32", "float64", ml_dtypes.bfloat16])
def test_numbers_become_the_models_floats(stored, wanted):
    data = (IMAGES % 2).astype(stored)
    fed = collect(open_calibration(data, [spec(None, 3, 6, 8, dtype=wanted)]))
    assert fed.dtype == wanted
    np.testing.assert_array_equal(fed.astype(np.float32), data.astype(np.float32))


def test_token_ids_become_the_models_integers():
    ids = np.arange(6, dtype=np.int32).reshape(2, 3)
    fed = collect(open_calibration(ids, [spec(None, None, dtype="int64")]))
    assert fed.dtype == np.int64
    np.testing.assert_array_equal(fed, ids)


def test_several_inputs_and_other_arrays():
    inputs = [spec(None, 3, name="a"), spec(None, 5, name="ids", dtype="int64")]
    data = {"a": np.ones((6, 3)), "ids": np.arange(30).reshape(6, 5), "labels": np.array(["?"])}
    calibration = open_calibration(data, inputs)
    feeds = list(calibration.batches(4))
    assert [set(feed) for feed in feeds] == [{"a", "ids"}] * 2
    np.testing.assert_array_equal(feeds[1]["ids"], data["ids"][4:])
    assert calibration.shapes == {"a": (3,), "ids": (5,)}


@pytest.mark.parametrize("name", ["x", "images", "whatever"])
def test_the_only_input_takes_an_array_of_another_name(name):
    data = {name: IMAGES, "labels": np.arange(10)}
    calibration = open_calibration(data, [spec(None, 3, 6, 8, name="input.1")])
    np.testing.assert_array_equal(collect(calibration, name="input.1"), IMAGES)


def test_a_usual_name_decides_between_arrays_that_fit():
    data = {"masks": IMAGES, "x": IMAGES + 1}
    calibration = open_calibration(data, [spec(None, 3, 6, 8, name="input")])
    np.testing.assert_array_equal(collect(calibration, name="input"), data["x"])


@pytest.mark.parametrize(
    ("first", "other", "extra"),
    [
        (spec(None, 3), spec(2, 2, name="w"), np.eye(2)),
        (spec(None, 3), spec(name="w"), np.float32(0.5)),
        (spec(1, 3), spec(1, 2, name="w"), np.ones((1, 2))),
        (spec(6, 3), spec(2, 2, name="w"), np.eye(2)),
        (spec(None, 3), spec(2, None, 4, name="w"), np.ones((2, 1, 4))),
    ],
)
def test_inputs_without_samples_are_fed_whole(first, other, extra):
    calibration = open_calibration({"x": np.ones((6, 3)), "w": extra}, [first, other])
    feeds = list(calibration.batches(4))
    assert len(calibration) == 6
    assert [len(feed["x"]) for feed in feeds] == [4, 2]
    for feed in feeds:
        np.testing.assert_array_equal(feed["w"], extra)
        assert feed["w"].shape == extra.shape
    assert calibration.shapes["w"] == extra.shape


def test_arrays_of_different_lengths_are_no_samples_and_something_whole():
    inputs = [spec(4, 3, name="a"), spec(4, None, name="b")]
    message = refusal({"a": np.ones((8, 3)), "b": np.ones((4, 5))}, inputs)
    assert "different numbers of samples" in message


def test_nan_without_samples_is_refused():
    data = {"x": np.ones((6, 3)), "w": np.float32(np.nan)}
    message = refusal(data, [spec(None, 3), spec(name="w")])
    assert message.startswith("--data: input 'w' has NaN or infinite values | got: nan")


def test_one_batch_of_a_model_of_fixed_batch_size_is_samples():
    inputs = [spec(2, 3, name="a"), spec(2, 4, name="b")]
    assert len(open_calibration({"a": np.ones((2, 3)), "b": np.ones((2, 4))}, inputs)) == 2


def test_raw_pixels_are_noted_and_normalised_values_are_not():
    (note,) = open_calibration(IMAGES, [NCHW]).notes
    assert "0 to 255" in note
    assert open_calibration(IMAGES / 255, [NCHW]).notes == ()
    assert open_calibration(IMAGES, [spec(None, 3, 6, 8, dtype="uint8")]).notes == ()


def test_data_are_neither_copied_nor_changed():
    before = IMAGES.copy()
    calibration = open_calibration(IMAGES.transpose(0, 2, 3, 1), [NCHW])
    assert np.shares_memory(calibration._source._columns["x"], IMAGES)
    collect(calibration)
    np.testing.assert_array_equal(IMAGES, before)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            np.ones((10, 4, 6, 8), np.float32),
            "data doesn't fit the model's inputs | got: data float32 (10, 4, 6, 8) "
            "| expected: x float32 (N, 3, 6, 8)",
        ),
        (
            {"a": np.ones((2, 7)), "y": np.arange(2)},
            "data doesn't fit the model's inputs | got: a float64 (2, 7), y int64 (2) "
            "| expected: x float32 (N, 3, 6, 8)",
        ),
        (
            {"a": IMAGES, "b": IMAGES},
            "data doesn't fit the model's inputs | got: a uint8 (10, 3, 6, 8), "
            "b uint8 (10, 3, 6, 8) | expected: x float32 (N, 3, 6, 8)",
        ),
        (
            {},
            "data doesn't fit the model's inputs | got: no arrays "
            "| expected: x float32 (N, 3, 6, 8)",
        ),
        (
            IMAGES.astype(complex),
            "data has the wrong dtype for the model's input 'x' "
            "| got: complex128 (10, 3, 6, 8) | expected: x float32 (N, 3, 6, 8)",
        ),
        (
            IMAGES[:0],
            "data has no samples | got: x uint8 (0, 3, 6, 8) | expected: 1 or more",
        ),
    ],
)
def test_refusals_of_one_input(data, message):
    assert refusal(data, [NCHW]) == message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"a": np.ones((6, 3))},
            "data doesn't fit the model's inputs | got: a float64 (6, 3) "
            "| expected: a float32 (N, 3), ids int64 (N, 5)",
        ),
        (
            {"a": np.ones((6, 3)), "ids": np.ones((6, 5))},
            "data has the wrong dtype for the model's input 'ids' | got: float64 (6, 5) "
            "| expected: ids int64 (N, 5)",
        ),
        (
            {"a": np.ones((6, 3)), "ids": np.ones((6, 4), int)},
            "data doesn't fit the model's inputs | got: ids int64 (6, 4) "
            "| expected: ids int64 (N, 5)",
        ),
    ],
)
def test_refusals_of_several_inputs(data, message):
    assert (
        refusal(data, [spec(None, 3, name="a"), spec(None, 5, name="ids", dtype="int64")])
        == message
    )


def test_integers_that_do_not_fit_are_refused():
    message = refusal(np.full((2, 3), 300), [spec(None, 3, dtype="uint8")])
    assert message == (
        "--data: values don't fit the model's input 'x' | got: 300 to 300 in int64 (2, 3) "
        "| expected: uint8 values"
    )


def test_samples_are_chosen_at_random():
    calibration = open_calibration(IMAGES, [NCHW], samples=4, seed=1)
    assert calibration.origin == "ndarray (4 of 10 samples)"
    np.testing.assert_array_equal(
        collect(calibration), collect(open_calibration(IMAGES, [NCHW]).take(4, seed=1))
    )


def test_an_array_of_another_name_is_noted(tmp_path):
    model = [spec(None, 3, 6, 8, name="input")]
    np.savez(tmp_path / "a.npz", foo=IMAGES / 255, y=np.arange(10))
    note = "has no array 'input': 'foo', which fits, is taken for it"
    (file,) = open_calibration(tmp_path / "a.npz", model).notes
    assert file == f"--data {tmp_path}/a.npz {note}"
    assert open_calibration({"foo": IMAGES / 255}, model).notes == (f"data {note}",)


def test_an_array_without_a_name_or_of_a_usual_one_is_no_surprise(tmp_path):
    model = [spec(None, 3, 6, 8, name="input")]
    np.save(tmp_path / "a.npy", IMAGES / 255)
    for data in (IMAGES / 255, tmp_path / "a.npy", {"x": IMAGES / 255}, {"input": IMAGES / 255}):
        assert open_calibration(data, model).notes == ()


def test_different_numbers_of_samples_are_no_rows():
    data = {"a": np.ones((6, 3)), "ids": np.ones((4, 5), int)}
    inputs = [spec(None, 3, name="a"), spec(None, 5, name="ids", dtype="int64")]
    samples = open_calibration(data, inputs)
    assert samples.alone
    assert len(samples) == 1
    assert str(samples.refusal) == (
        "data has different numbers of samples for the inputs "
        "| got: a float64 (6, 3), ids int64 (4, 5) | expected: as many for each"
    )


def test_an_array_of_one_entry_is_a_scalar():
    data = {"x": np.ones((6, 3)), "w": np.array([2.0])}
    (feed,) = open_calibration(data, [spec(None, 3), spec(name="w")]).batches(6)
    assert feed["w"].shape == ()
    assert feed["x"].shape == (6, 3)


@pytest.mark.parametrize("kind", [str, object])
def test_texts_are_data(kind, tmp_path):
    texts = np.array([["a", "bc"], ["d", "e"], ["", "f"]]).astype(kind)
    model = spec(None, 2, dtype=object)
    calibration = open_calibration(texts, [model])
    fed = collect(calibration, 2)
    assert fed.dtype == object
    np.testing.assert_array_equal(fed, texts)
    if kind is str:
        for path, save in ((tmp_path / "x.npy", np.save), (tmp_path / "x.npz", np.savez)):
            save(path, texts)
            np.testing.assert_array_equal(collect(open_calibration(path, [model])), texts)


def test_what_is_no_text_is_refused():
    model = spec(None, 2, dtype=object)
    assert refusal(np.ones((3, 2)), [model]) == (
        "data has the wrong dtype for the model's input 'x' | got: float64 (3, 2) "
        "| expected: x string (N, 2)"
    )
    assert refusal(np.array([["a", 3]], object), [model]) == (
        "--data: values don't fit the model's input 'x' | got: 3 of type int | expected: text (str)"
    )
    assert "wrong dtype" in refusal(np.array([["a", "b"]]), [spec(None, 2)])
