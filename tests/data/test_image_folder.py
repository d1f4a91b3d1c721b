import threading

import numpy as np
import pytest
from data_helpers import collect, pixels, refusal, spec
from PIL import Image

from onnx_reap.data import Preprocess, folder, open_calibration

MODEL = spec(None, 3, 6, 8)
IMAGES = pixels(5, 6, 8, 3)
NAMES = ["b/2.png", "a/1.PNG", "c.bmp", "a/0.tif", "b/deep/3.png"]


@pytest.fixture
def images(tmp_path):
    for name, image in zip(NAMES, IMAGES, strict=True):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / name)
    (tmp_path / ".cache").mkdir()
    for name in ("labels.csv", "a/._1.PNG", "b/notes.txt", ".cache/4.png"):
        (tmp_path / name).write_text("no image")
    return tmp_path


def test_images_of_all_sub_folders_are_sorted_by_path(images):
    calibration = open_calibration(images, [MODEL])
    order = np.argsort(NAMES)
    np.testing.assert_array_equal(collect(calibration, 2), IMAGES[order].transpose(0, 3, 1, 2))
    assert calibration.origin == f"{images.name} (5 samples)"
    assert calibration.shapes == {"x": (3, 6, 8)}
    assert "0 to 255" in calibration.notes[0]


def test_nhwc_models(images):
    model = spec(None, 6, 8, 3, dtype="uint8")
    calibration = open_calibration(images, [model])
    np.testing.assert_array_equal(collect(calibration), IMAGES[np.argsort(NAMES)])
    assert calibration.notes == ()


def test_grey_models(images):
    fed = collect(open_calibration(images, [spec(None, 1, 6, 8)]))
    expected = np.asarray(Image.fromarray(IMAGES[3]).convert("L"))
    np.testing.assert_array_equal(fed[0, 0], expected)


def test_grey_and_transparent_images_become_rgb(tmp_path):
    Image.fromarray(IMAGES[0, ..., 0]).save(tmp_path / "0.png")
    rgba = np.dstack([IMAGES[1], np.full((6, 8), 128, np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "1.png")
    fed = collect(open_calibration(tmp_path, [MODEL]))
    np.testing.assert_array_equal(fed[0], np.stack([IMAGES[0, ..., 0]] * 3))
    np.testing.assert_array_equal(fed[1], IMAGES[1].transpose(2, 0, 1))


def test_exif_orientation_is_respected(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(np.rot90(IMAGES[0])).save(tmp_path / "0.png", exif=exif)
    fed = collect(open_calibration(tmp_path, [MODEL]))
    np.testing.assert_array_equal(fed[0], IMAGES[0].transpose(2, 0, 1))


def test_without_flags_images_are_stretched_to_the_models_size(images):
    fed = collect(open_calibration(images, [spec(None, 3, 4, 4)]))
    expected = Image.fromarray(IMAGES[3]).resize((4, 4), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(fed[0], np.asarray(expected).transpose(2, 0, 1))


def test_images_are_decoded_batch_by_batch_in_other_threads(images, monkeypatch):
    decoded = []
    decode = folder.decode

    def spy(path, channels):
        decoded.append((path, threading.current_thread()))
        return decode(path, channels)

    monkeypatch.setattr(folder, "decode", spy)
    batches = open_calibration(images, [MODEL]).batches(2)
    assert decoded == []
    next(batches)
    assert len(decoded) == 2
    assert threading.main_thread() not in {thread for _, thread in decoded}


def test_an_empty_folder_is_refused(tmp_path):
    assert refusal(tmp_path, [MODEL]) == (
        f"--data {tmp_path} has no images | got: an empty folder "
        "| expected: .bmp, .gif, .jpeg, .jpg, .pgm, .png, .ppm, .tif, .tiff, .webp"
    )


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "labels.csv").touch()
    assert "has no images | got: 1 other file or folder |" in refusal(tmp_path, [MODEL])


@pytest.mark.parametrize("content", [b"", b"no image", "truncated"])
def test_a_corrupt_image_is_refused_by_name(images, content):
    path = images / "b/2.png"
    path.write_bytes(path.read_bytes()[:100] if content == "truncated" else content)
    message = refusal(images, [MODEL])
    assert message.startswith(f"--data {path} can't be read | got: ")
    assert message.endswith("| expected: a whole 8-bit image | try: remove or convert it")


def test_sixteen_bit_images_are_refused(tmp_path):
    Image.fromarray(np.full((6, 8), 40000, np.uint16)).save(tmp_path / "0.png")
    assert "got: I;16 pixels, more than 8 bits a channel" in refusal(tmp_path, [MODEL])


def test_a_dynamic_size_needs_flags(images):
    model = spec(None, 3, None, None)
    assert refusal(images, [model]) == (
        "images must come to one size, and the model's own is dynamic "
        "| got: x float32 (N, 3, ?, ?) | try: --crop, or --resize with a height and a width"
    )
    fed = collect(open_calibration(images, [model], Preprocess(resize=(4, 5))))
    assert fed.shape == (5, 3, 4, 5)


def test_a_crop_larger_than_an_image_is_refused(images):
    message = refusal(images, [spec(None, 3, None, None)], Preprocess(crop=7))
    assert message == (
        f"--data {images}/a/0.tif is smaller than what is cut out of its centre | got: 6 x 8 "
        "| expected: 7 x 7 or more | try: --resize 7"
    )


@pytest.mark.parametrize(
    "inputs", [[MODEL, spec(None, 3, name="y")], [spec(None, 3)], [spec(None, 64, 6, 8)]]
)
def test_models_that_take_no_image_are_refused(images, inputs):
    message = refusal(images, inputs)
    assert message.startswith(
        f"--data {images} is a folder of images, which the model doesn't take | got: x float32 (N, "
    )


def test_pillow_is_asked_for(images, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    assert refusal(images, [MODEL]) == (
        "reading and resizing images needs Pillow | try: pip install pillow"
    )
