import numpy as np
import pytest
from data_helpers import collect, pixels, refusal, spec
from PIL import Image

from onnx_reap.data import Preprocess, open_calibration
from onnx_reap.errors import UsageError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TORCHVISION = Preprocess(scale=1 / 255, mean=MEAN, std=STD)
IMAGES = pixels(3, 3, 6, 8)
MODEL = spec(None, 3, 6, 8)
PER_CHANNEL = np.array([MEAN, STD])[..., None, None]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_values_follow_the_formula(layout):
    nchw = layout == "NCHW"
    model = MODEL if nchw else spec(None, 6, 8, 3)
    calibration = open_calibration(IMAGES, [model], TORCHVISION)
    fed = collect(calibration)
    expected = (IMAGES / 255 - PER_CHANNEL[0]) / PER_CHANNEL[1]
    expected = expected if nchw else expected.transpose(0, 2, 3, 1)
    # Three roundings in float32 of values up to 3.
    np.testing.assert_allclose(fed, expected, rtol=0, atol=2e-6)
    assert calibration.notes == ()


def test_float64_models_get_float64_precision():
    fed = collect(open_calibration(IMAGES, [spec(None, 3, 6, 8, dtype="float64")], TORCHVISION))
    expected = (IMAGES / 255 - PER_CHANNEL[0]) / PER_CHANNEL[1]
    # The same operations in another order.
    np.testing.assert_allclose(fed, expected, rtol=1e-13, atol=1e-13)


def test_one_number_serves_all_channels():
    fed = collect(open_calibration(IMAGES, [MODEL], Preprocess(mean=127.5, std=(127.5,))))
    # Exact in float32: 127.5 is a power of two times an integer, divided with one rounding.
    np.testing.assert_allclose(fed, (IMAGES - 127.5) / 127.5, rtol=1e-7)


def test_bgr_comes_before_mean_and_std():
    preprocess = Preprocess(mean=(1, 2, 3), color="bgr")
    fed = collect(open_calibration(IMAGES, [MODEL], preprocess))
    np.testing.assert_array_equal(fed, IMAGES[:, ::-1] - np.array([1.0, 2, 3])[:, None, None])


@pytest.mark.parametrize("stored", ["uint8", "float64"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_resize_of_the_shorter_side_then_centre_crop(stored, layout):
    """As ``torchvision.transforms``: Resize(12), CenterCrop(8)."""
    images = pixels(2, 20, 30, 3)
    data = images.astype(stored)
    data = data.transpose(0, 3, 1, 2) if layout == "NCHW" else data
    fed = collect(open_calibration(data, [spec(None, 3, 8, 8)], Preprocess(resize=12, crop=8)))
    for got, image in zip(fed, images, strict=True):
        small = Image.fromarray(image).resize((18, 12), Image.Resampling.BILINEAR)
        expected = np.asarray(small.crop((5, 2, 13, 10))).transpose(2, 0, 1)
        # Pillow rounds bytes twice, once for each axis, and floats never.
        np.testing.assert_allclose(got, expected, rtol=0, atol=0 if stored == "uint8" else 1)


def test_images_from_files_and_arrays_are_treated_alike(tmp_path):
    images = pixels(2, 20, 30, 3)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    preprocess = Preprocess(8, 6, MEAN, STD, 1 / 255, "bgr")
    model = spec(None, 3, None, None)
    calibrations = [open_calibration(data, [model], preprocess) for data in (tmp_path, images)]
    np.testing.assert_array_equal(*map(collect, calibrations))
    assert calibrations[0].shapes == calibrations[1].shapes == {"x": (3, 6, 6)}


def test_the_crop_defaults_to_the_models_size():
    fed = collect(open_calibration(pixels(2, 20, 30, 3), [MODEL], Preprocess(resize=10)))
    assert fed.shape == (2, 3, 6, 8)


def test_a_crop_alone_cuts_the_centre():
    data = pixels(2, 3, 10, 12)
    fed = collect(open_calibration(data, [MODEL], Preprocess(crop=(6, 8))))
    np.testing.assert_array_equal(fed, data[:, :, 2:8, 2:10])


def test_flags_are_about_images_if_there_are_any():
    inputs = [MODEL, spec(None, 2, name="f"), spec(None, 2, name="ids", dtype="int64")]
    data = {"x": IMAGES, "f": np.ones((3, 2)), "ids": np.full((3, 2), 7)}
    (feed,) = open_calibration(data, inputs, Preprocess(scale=2)).batches(3)
    np.testing.assert_array_equal(feed["x"], IMAGES * 2.0)
    np.testing.assert_array_equal(feed["f"], data["f"])
    np.testing.assert_array_equal(feed["ids"], data["ids"])


@pytest.mark.parametrize("model", [spec(None, 2), spec(None, 5, 2), spec(None, 2, 5)])
def test_features_are_normalised_where_there_are_no_images(model):
    data = np.arange(3.0 * np.prod(model.shape[1:])).reshape(3, *model.shape[1:])
    fed = collect(open_calibration(data, [model], Preprocess(mean=(1, 2))))
    shape = [2 if size == 2 else 1 for size in model.shape[1:]]
    np.testing.assert_array_equal(fed, data - np.reshape([1, 2], shape))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"std": (1, 0)}, "--std is zero | got: (1, 0) | try: --std 1, or what training used"),
        ({"scale": 0}, "--scale is zero | got: 0 | try: --scale 1, or what training used"),
    ],
)
def test_flags_that_make_no_sense(flags, message):
    with pytest.raises(UsageError) as caught:
        Preprocess(**flags)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("model", "flags", "message"),
    [
        (
            MODEL,
            {"mean": (1, 2)},
            "--mean doesn't fit the channels of the model's input "
            "| got: 2 numbers for x float32 (N, 3, 6, 8) | expected: 1 number, or 1 a channel",
        ),
        (
            MODEL,
            {"resize": 8, "crop": 4},
            "--resize and --crop don't lead to the size of the model's input | got: 4 x 4 "
            "| expected: x float32 (N, 3, 6, 8)",
        ),
        (
            spec(None, 4),
            {"color": "bgr"},
            "--resize, --crop and --color need an image input | got: x float32 (N, 4) "
            "| expected: 4 axes, of which the second or last has size 1 or 3",
        ),
        (
            spec(None, 4, dtype="int64"),
            {"scale": 2},
            "--scale, --mean and --std need a floating input | got: x int64 (N, 4)",
        ),
    ],
)
def test_flags_that_the_model_contradicts(model, flags, message):
    assert refusal(IMAGES, [model], Preprocess(**flags)) == message


def test_an_array_smaller_than_the_crop_is_refused_by_sample():
    message = refusal(IMAGES, [spec(None, 3, None, None)], Preprocess(crop=7))
    assert message.startswith(
        "sample 0 of data is smaller than what is cut out of its centre | got: 6 x 8 |"
    )


def test_a_resize_that_is_too_small_is_told_the_size_that_does():
    """The crop is the model's own size, since none is given."""
    message = refusal(IMAGES, [MODEL], Preprocess(resize=4))
    assert "| got: 4 x 5 after --resize | expected: 6 x 8 or more | try: --resize 8" in message
    collect(open_calibration(IMAGES, [MODEL], Preprocess(resize=8)))
