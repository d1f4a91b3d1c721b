import numpy as np
import pytest
from data_helpers import collect, pixels, refusal, spec

from onnx_reap.data import open_calibration

MODEL = spec(None, 3, 6, 8)
IMAGES = pixels(10, 3, 6, 8)


def is_mapped(array) -> bool:
    while array is not None:
        if isinstance(array, np.memmap):
            return True
        array = getattr(array, "base", None)
    return False


def save(path, **arrays):
    np.save(path, arrays["x"]) if path.suffix == ".npy" else np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("name", ["calib.npy", "calib.npz"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_files_are_memory_mapped(tmp_path, name, order):
    path = save(tmp_path / name, y=np.arange(10), x=np.asarray(IMAGES, order=order))
    calibration = open_calibration(path, [MODEL])
    assert is_mapped(calibration._source._columns["x"])
    assert calibration.origin == f"{name} (10 samples)"
    np.testing.assert_array_equal(collect(calibration), IMAGES)


def test_compressed_arrays_are_read_only_if_needed(tmp_path):
    path = tmp_path / "calib.npz"
    np.savez_compressed(path, x=IMAGES, names=np.array(["cat", None], object))
    np.testing.assert_array_equal(collect(open_calibration(str(path), [MODEL])), IMAGES)


def test_several_inputs_by_name(tmp_path):
    path = save(tmp_path / "calib.npz", a=np.ones((4, 3)), ids=np.arange(4)[:, None])
    inputs = [spec(None, 3, name="a"), spec(None, 1, name="ids", dtype="int64")]
    (feed,) = open_calibration(path, inputs).batches(8)
    np.testing.assert_array_equal(feed["ids"][:, 0], np.arange(4))


def test_a_missing_file_is_refused(tmp_path):
    assert refusal(tmp_path / "no.npz", [MODEL]) == (
        f"--data {tmp_path}/no.npz doesn't exist "
        "| expected: a .npy or .npz file or a folder of images | try: check the path"
    )


def test_an_unknown_kind_is_refused(tmp_path):
    path = tmp_path / "cat.jpg"
    path.touch()
    assert refusal(path, [MODEL]).startswith(
        f"--data {path} is of an unknown kind | expected: a .npy"
    )


@pytest.mark.parametrize("name", ["calib.npy", "calib.npz"])
@pytest.mark.parametrize("keep", [0, 5, 100, 300])
def test_a_truncated_file_is_refused(tmp_path, name, keep):
    path = save(tmp_path / name, x=IMAGES)
    path.write_bytes(path.read_bytes()[:keep])
    message = refusal(path, [MODEL])
    assert message.startswith(f"--data {path} can't be read | got: ")
    assert message.endswith("| expected: a whole .npy or .npz file of numbers or str")


def test_a_corrupt_compressed_array_is_refused(tmp_path):
    path = tmp_path / "calib.npz"
    np.savez_compressed(path, x=IMAGES)
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)
    assert refusal(path, [MODEL]).startswith(f"array 'x' of --data {path} can't be read | got: ")


@pytest.mark.parametrize("name", ["calib.npy", "calib.npz"])
def test_pickled_objects_are_refused(tmp_path, name):
    path = save(tmp_path / name, x=np.array([{"a": 1}], object))
    message = refusal(path, [MODEL])
    assert f"--data {path} can't be read | got: " in message
    assert "Python objects" in message


@pytest.mark.parametrize("name", ["calib.npy", "calib.npz"])
def test_an_empty_array_has_no_samples(tmp_path, name):
    path = save(tmp_path / name, x=IMAGES[:0])
    assert refusal(path, [MODEL]).startswith(f"--data {path} has no samples")


def test_an_npz_without_arrays_is_refused(tmp_path):
    path = tmp_path / "calib.npz"
    np.savez(path)
    assert "| got: no arrays |" in refusal(path, [MODEL])


def test_the_wrong_shape_is_refused_with_all_that_was_found(tmp_path):
    path = save(
        tmp_path / "calib.npz", a=np.ones((2, 5), np.float32), b=np.arange(2, dtype=np.int64)
    )
    assert refusal(path, [MODEL]) == (
        f"--data {path} doesn't fit the model's inputs | got: a float32 (2, 5), b int64 (2) "
        "| expected: x float32 (N, 3, 6, 8)"
    )
