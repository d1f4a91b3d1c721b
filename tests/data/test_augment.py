"""Copies of samples: which inputs are augmented, and what a copy holds."""

import ml_dtypes
import numpy as np
import pytest
from data_helpers import spec

from onnx_reap.data import open_calibration
from onnx_reap.data.augment import SHIFT, WINDOW, Augment, find_augment, with_copies
from onnx_reap.errors import UsageError
from onnx_reap.options import Settings
from onnx_reap.prune.contradictions import run_settings

COUNT = 40


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def smooth(*shape: int, axes: tuple[int, ...] = (-2, -1), seed: int = 0) -> np.ndarray:
    """Values from 0 to 1 that are alike where they are near along some axes."""
    values = random(seed).normal(size=shape)
    for axis in axes:
        values = sum(np.roll(values, step, axis) for step in range(8))
    values -= values.min()
    return (values / values.max()).astype(np.float32)


def pixels(*shape: int, axes=(-2, -1), dtype="float32") -> np.ndarray:
    values = smooth(*shape, axes=axes) * 255
    return values.astype(dtype)


def images(axes=(2, 3), **others) -> Augment:
    return Augment({"x": axes}, {}, frozenset(), **others)


def copied(augment: Augment, batch: np.ndarray, seed: int = 0) -> np.ndarray:
    return augment.augmented({"x": batch}, random(seed))["x"]


def found(kind: str = "auto", **arrays: np.ndarray) -> Augment | None:
    inputs = [spec(None, *x.shape[1:], name=name, dtype=x.dtype) for name, x in arrays.items()]
    return find_augment(open_calibration(arrays, inputs), kind, seed=0)


def ramp(height: int, width: int) -> np.ndarray:
    """Pixels that tell their row and column."""
    return (1000 * np.arange(height)[:, None] + np.arange(width)).astype(np.float32)


# What a copy holds


@pytest.mark.parametrize("size", [16, 80])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "uint8", "int64"])
@pytest.mark.parametrize("layout", [(2, 3), (1, 2)])
def test_copies_keep_shape_type_and_range(size: int, dtype: str, layout: tuple[int, int]):
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    planes = pixels(COUNT, 3, size, size + 8) * np.array([1, 0.5, 0.1])[:, None, None] + 3
    batch = np.ascontiguousarray(np.moveaxis(planes, (2, 3), layout)).astype(kind)
    before = batch.copy()
    copy = copied(images(layout), batch)
    assert (copy.dtype, copy.shape, copy.flags.c_contiguous) == (kind, batch.shape, True)
    np.testing.assert_array_equal(batch, before)
    wide, given = copy.astype(np.float64), batch.astype(np.float64)
    assert (wide.min(layout) >= given.min(layout)).all()
    assert (wide.max(layout) <= given.max(layout)).all()
    changed = (wide != given).any((1, 2, 3))
    assert changed.mean() > 0.9


@pytest.mark.parametrize("augment", [images(), Augment({}, {"x": 3}, frozenset())])
@pytest.mark.parametrize("size", [16, 80])
def test_copies_follow_from_the_seed(augment: Augment, size: int):
    batch = smooth(6, 3, size, size)
    same, again, other = (copied(augment, batch, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(same, again)
    assert not np.array_equal(same, other)


def test_each_sample_gets_its_own_copy():
    copies = copied(images(), np.repeat(smooth(1, 1, 24, 24), COUNT, 0))
    assert len(np.unique(copies.reshape(COUNT, -1), axis=0)) > COUNT // 2


def test_small_images_are_mirrored_and_moved_by_whole_pixels():
    height, width = 16, 24
    image = ramp(height, width)
    copies = copied(images(), np.broadcast_to(image, (200, 2, height, width)).copy())
    padded = np.pad(image, ((2, 2), (3, 3)), mode="reflect")
    shown = {
        (top, left, mirrored): window[:, ::-1] if mirrored else window
        for top in range(5)
        for left in range(7)
        for window in [padded[top : top + height, left : left + width]]
        for mirrored in (False, True)
    }
    seen = []
    for copy in copies:
        np.testing.assert_array_equal(copy[0], copy[1])
        seen += [key for key, window in shown.items() if np.array_equal(window, copy[0])]
    assert len(seen) == len(copies)
    tops, lefts, mirrored = map(np.array, zip(*seen, strict=True))
    assert set(tops) == set(range(2 * height // SHIFT + 1))
    assert set(lefts) == set(range(2 * width // SHIFT + 1))
    assert 0.4 < mirrored.mean() < 0.6


@pytest.mark.parametrize("layout", [(2, 3), (1, 2)])
def test_half_of_the_larger_images_are_zoomed_which_is_linear_between_pixels(
    layout: tuple[int, int],
):
    height, width = 72, 90
    image = 2 * np.arange(height)[:, None] + 5 * np.arange(width) + 7.0
    planes = np.broadcast_to(image, (200, 3, height, width))
    copies = copied(images(layout), np.moveaxis(planes, (2, 3), layout).copy())
    copies = np.moveaxis(copies, layout, (2, 3))
    whole = (copies == np.rint(copies)).all((1, 2, 3))  # moved by whole pixels
    assert 0.4 < whole.mean() < 0.6
    for copy in copies[~whole]:
        down, right = np.diff(copy, axis=-2), np.diff(copy, axis=-1)
        np.testing.assert_allclose(down, down[0, 0, 0], rtol=1e-9)
        np.testing.assert_allclose(right, right[0, 0, 0], rtol=1e-9)
        assert WINDOW * 2 <= down[0, 0, 0] <= 2
        assert WINDOW * 5 <= abs(right[0, 0, 0]) <= 5
    mirrored = np.mean([copy[0, 0, 1] < copy[0, 0, 0] for copy in copies])
    assert 0.4 < mirrored < 0.6


def test_integers_are_rounded():
    batch = pixels(COUNT, 3, 70, 80, dtype="uint8")
    exact = copied(images(), batch.astype(np.float32))
    np.testing.assert_array_equal(copied(images(), batch), np.rint(exact))


def test_even_images_stay_as_they_are():
    batch = np.broadcast_to(random().normal(size=(COUNT, 3, 1, 1)), (COUNT, 3, 70, 80))
    batch = batch.astype(np.float32)
    np.testing.assert_array_equal(copied(images(), batch), batch)


def test_inputs_of_the_same_size_move_together():
    image = np.broadcast_to(ramp(70, 80), (COUNT, 1, 70, 80)).copy()
    augment = Augment({"x": (2, 3), "depth": (1, 2)}, {}, frozenset())
    feed = augment.augmented({"x": image, "depth": image[:, 0, :, :, None]}, random())
    np.testing.assert_array_equal(feed["x"][:, 0], feed["depth"][..., 0])
    assert not np.array_equal(feed["x"], image)


@pytest.mark.parametrize("size", [24, 70])
def test_masks_hold_the_values_that_they_held(size: int):
    image = smooth(COUNT, 1, size, size)
    mask = (7 * (image[:, 0] > 0.5)).astype(np.int64)
    augment = found(x=image, mask=mask)
    assert augment == Augment({"x": (2, 3), "mask": (1, 2)}, {}, frozenset({"mask"}))
    feed = augment.augmented({"x": image, "mask": mask}, random())
    assert set(np.unique(feed["mask"])) == {0, 7}
    agree = (7 * (feed["x"][:, 0] > 0.5) == feed["mask"]).mean((1, 2))
    # Masks are read at the nearest pixel; one that moved otherwise would agree by half.
    assert agree.min() > (0.9 if size > 64 else 0.999)


def test_signals_move_along_time_and_get_little_noise():
    time = np.arange(160)
    batch = np.broadcast_to([time + 0.0, 100 - 3.0 * time], (100, 2, 160)).copy()
    copies = copied(Augment({}, {"x": 2}, frozenset()), batch)
    moved = np.median(copies[:, 0] - time, axis=1)
    assert -21 < moved.min() < -10 and 10 < moved.max() < 21
    for copy, step in zip(copies, np.rint(moved), strict=True):
        shifted = np.clip(time + step, 0, 159)
        noise = copy - [shifted, 100 - 3 * shifted]
        inner = (shifted > 15) & (shifted < 144)  # where the range cuts nothing off
        assert (noise[:, inner].std(1) / batch[0].std(1) > 0.01).all()
        assert (noise[:, inner].std(1) / batch[0].std(1) < 0.05).all()
    assert copies.min((0, 2)).tolist() == batch.min((0, 2)).tolist()
    assert copies.max((0, 2)).tolist() == batch.max((0, 2)).tolist()


def test_flags_over_time_get_no_noise():
    sound = smooth(COUNT, 400, axes=(1,))
    feed = {"x": sound, "on": (sound > 0.5).astype(np.float32)}
    copy = found(**feed).augmented(feed, random())
    assert set(np.unique(copy["on"])) == {0, 1}
    assert ((copy["x"] > 0.5) == copy["on"]).mean() > 0.9 > (copy["on"] == feed["on"]).mean()


def test_signals_that_do_not_vary_get_no_noise():
    batch = np.full((4, 2, 64), 3, np.float32)
    np.testing.assert_array_equal(copied(Augment({}, {"x": 2}, frozenset()), batch), batch)


# Which inputs are augmented


@pytest.mark.parametrize(
    ("batch", "sides"),
    [
        (pixels(COUNT, 3, 32, 32), (2, 3)),
        (pixels(COUNT, 1, 20, 24), (2, 3)),
        (pixels(COUNT, 32, 32, 3, axes=(1, 2)), (1, 2)),
        (pixels(COUNT, 32, 32, 3, axes=(1, 2), dtype="uint8"), (1, 2)),
        (pixels(COUNT, 3, 32, 32, dtype="float16"), (2, 3)),
        (pixels(COUNT, 6, 32, 32), (2, 3)),
        (pixels(COUNT, 32, 32, 6, axes=(1, 2)), (1, 2)),
    ],
)
@pytest.mark.parametrize("kind", ["auto", "image"])
def test_images_are_recognised(batch: np.ndarray, sides: tuple[int, int], kind: str):
    assert found(kind, x=batch) == images(sides)
    assert found("none", x=batch) is None


@pytest.mark.parametrize(
    ("batch", "axis"),
    [
        (smooth(COUNT, 500, axes=(1,)), 1),
        (smooth(COUNT, 1, 500, axes=(2,)), 2),
        (smooth(COUNT, 6, 128, axes=(2,)), 2),
        (smooth(COUNT, 128, 6, axes=(1,)), 1),
        (smooth(COUNT, 1, 22, 300, axes=(3,)), 3),
        (smooth(COUNT, 64, 100), 2),
    ],
)
@pytest.mark.parametrize("kind", ["auto", "signal"])
def test_signals_are_recognised(batch: np.ndarray, axis: int, kind: str):
    assert found(kind, x=batch) == Augment({}, {"x": axis}, frozenset())
    assert found("none", x=batch) is None


FEATURES = random().normal(size=(COUNT, 64)).astype(np.float32)
ORDERED = np.repeat(random().normal(size=(COUNT, 16)), 4, axis=1).astype(np.float32)
SET = random().normal(size=(COUNT, 1, 50)) + random(1).normal(size=(COUNT, 36, 50))
CENTRED = np.exp(-np.square(np.arange(100) - 50) / 99) * random().uniform(1, 2, (COUNT, 1))


@pytest.mark.parametrize(
    "batch",
    [
        FEATURES,
        ORDERED + 0.1 * FEATURES,
        SET.astype(np.float32),
        CENTRED.astype(np.float32),
        random().normal(size=(COUNT, 3, 32, 32)).astype(np.float32),
        100 * smooth(3, 32, 32) + random().normal(size=(COUNT, 3, 32, 32)).astype(np.float32),
        random().integers(0, 30000, (COUNT, 128)),
        smooth(COUNT, 8, 24, axes=(2,)),
        smooth(4, 3, 32, 32),
    ],
    ids=[
        "features",
        "groups",
        "a set",
        "centred",
        "no image",
        "pattern",
        "ids",
        "short",
        "few samples",
    ],
)
def test_other_inputs_are_recognised_as_neither(batch: np.ndarray):
    assert found(x=batch) is None


def test_shapes_tell_where_the_user_insists():
    noise = random().normal(size=(COUNT, 3, 32, 40)).astype(np.float32)
    assert found("image", x=noise) == images()
    assert found("signal", x=noise) == Augment({}, {"x": 3}, frozenset())
    assert found("image", x=smooth(COUNT, 24, 30)) == images((1, 2))
    assert found("image", x=FEATURES) is None
    assert found("signal", x=random().integers(0, 9, (COUNT, 64))) is None
    assert found("image", x=smooth(COUNT, 500, axes=(1,))) is None


def test_ids_and_lengths_are_passed_on():
    arrays = {
        "image": smooth(COUNT, 3, 32, 32),
        "sound": smooth(COUNT, 400, axes=(1,)),
        "heard": (np.arange(400) < random().integers(200, 400, (COUNT, 1))).astype(np.int64),
        "ids": random().integers(0, 99, (COUNT, 400)),
        "length": random().integers(0, 9, (COUNT, 1)),
        "text": np.array([["a"]] * COUNT, dtype=object),
    }
    augment = found(**arrays)
    assert augment == Augment({"image": (2, 3)}, {"sound": 1, "heard": 1}, frozenset({"heard"}))
    feed = augment.augmented(arrays, random())
    assert [name for name in arrays if feed[name] is arrays[name]] == ["ids", "length", "text"]
    assert set(np.unique(feed["heard"])) == {0, 1}
    assert list(feed) == list(arrays)


def test_inputs_without_a_batch_are_passed_on():
    arrays = {"x": smooth(COUNT, 1, 20, 20), "filter": smooth(3, 1, 20, 20)}
    inputs = [spec(None, 1, 20, 20), spec(3, 1, 20, 20, name="filter")]
    assert find_augment(open_calibration(arrays, inputs), "auto", 0) == images()


def test_images_of_several_sizes():
    feeds = [{"x": smooth(1, 3, 20 + k % 5, 30 - k % 4, seed=k)} for k in range(COUNT)]
    samples = open_calibration(feeds, [spec(1, 3, None, None)])
    assert samples.alone
    augment = find_augment(samples, "auto", 0)
    assert augment == images()
    for feed in feeds:
        assert copied(augment, feed["x"]).shape == feed["x"].shape


def test_nodes_of_graphs_are_no_signal():
    feeds = [{"x": smooth(40 + k, 64, axes=(0, 1), seed=k)} for k in range(COUNT)]
    samples = open_calibration(feeds, [spec(None, 64)]).feeds()
    assert samples.alone and find_augment(samples, "auto", 0) is None


# The option


def test_the_option():
    assert Settings().augment == "auto"
    assert run_settings({"augment": "signal"}, None).augment == "signal"
    assert run_settings({"augment": "none", "refit": False}, None).augment == "none"
    with pytest.raises(UsageError, match="--augment: contradicts --no-refit"):
        run_settings({"augment": "image", "refit": False}, None)
    with pytest.raises(UsageError, match=r"--lossless.*leave out --augment"):
        run_settings({"augment": "none", "lossless": True}, None)


def test_copies_stand_behind_samples_and_are_the_same_in_any_company():
    data = pixels(6, 3, 16, 16)
    samples = open_calibration({"x": data}, [spec(None, 3, 16, 16, name="x", dtype=data.dtype)])
    augment = images()
    stretched = with_copies(samples, augment, 2, seed=3)
    assert len(stretched) == 18
    (every,) = stretched.batches(18)
    np.testing.assert_array_equal(every["x"][:6], data)
    assert not np.array_equal(every["x"][6:12], data)
    assert not np.array_equal(every["x"][6:12], every["x"][12:])
    for place in (3, 7, 17):
        (alone,) = stretched.at([place]).batches(1)
        np.testing.assert_array_equal(alone["x"][0], every["x"][place])
