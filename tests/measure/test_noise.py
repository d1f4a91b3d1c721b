"""What is no more than rounding is told from what is more."""

from __future__ import annotations

import numpy as np
import pytest
from net import Net
from small_models import run

from onnx_reap.measure import noise as noise_module
from onnx_reap.measure.noise import AMPLIFIED, STEP, Difference, Noise
from onnx_reap.onnxio.light_model import LightModel

CPU = ["CPUExecutionProvider"]
FEED = {"x": np.random.default_rng(1).uniform(1, 2, (3, 8)).astype(np.float32)}


def model() -> LightModel:
    """Twice the input, and the mean of what was centred."""
    n = Net({"x": ("N", 8)})
    twice = n.node("Mul", "x", np.array(2.0), name="twice")
    mean = n.node("ReduceMean", "x", axes=[1], name="mean")
    centred = n.node("Sub", "x", mean, name="centred")
    n.node("ReduceMean", centred, axes=[1], name="nothing")
    return LightModel.of(n.model(twice))


def explains(name: str, error: float, part=lambda x: x) -> bool:
    found = Noise(model(), CPU, [name]).explains(FEED, {name: Difference(error, part)})
    return found == {name}


@pytest.mark.parametrize(("share", "told"), [(0.5, True), (2.0, False)])
def test_a_difference_is_rounding_within_ten_times_what_roundings_make(share, told):
    """The input moves by at most STEP of itself, so twice the input by as much."""
    bound = AMPLIFIED * STEP * 2 * float(FEED["x"].max())
    assert explains("twice_y", share * bound) == told


def test_what_is_mere_rounding_may_differ_by_as_much_as_there_is_of_it():
    (values,) = run(LightModel.of(with_output("nothing_y")).whole(), FEED)
    assert explains("nothing_y", 2 * float(np.abs(values).max()))
    assert not explains("nothing_y", 1e-3)


def with_output(name: str):
    proto = model().whole()
    proto.graph.output[0].name = name
    return proto


def test_only_the_part_that_was_compared_counts():
    small = FEED["x"].copy()
    small[:, 0] = 1e-3
    noise = Noise(model(), CPU, ["twice_y"])
    whole = {"twice_y": Difference(STEP, lambda x: x)}
    part = {"twice_y": Difference(STEP, lambda x: x[:, :1])}
    assert noise.explains({"x": small}, whole)
    assert not noise.explains({"x": small}, part)


def test_no_difference_is_explained_where_the_number_of_entries_changes():
    """As it does behind NonZero, for instance."""
    found = iter([np.zeros(2), np.full(2, 100.0), np.zeros(3), np.zeros(2)])
    assert not explains("twice_y", 0.5, lambda _: next(found))


def test_all_tensors_that_are_asked_for_are_run_together(monkeypatch):
    opened, runs = [], []
    monkeypatch.setattr(noise_module, "session", counted(noise_module.session, opened))
    monkeypatch.setattr(noise_module, "run", counted(noise_module.run, runs))
    names = ["twice_y", "nothing_y", "centred_y"]
    noise = Noise(model(), CPU, names)
    assert noise.explains(FEED, {}) == set()
    assert not opened
    asked = {name: Difference(1e-9, lambda x: x) for name in names[:2]}
    assert noise.explains(FEED, asked) == set(names[:2])
    assert noise.explains(FEED, {"centred_y": Difference(1.0, lambda x: x)}) == set()
    assert len(opened) == 1
    assert len(runs) == 2 * (noise_module.TRIES + 1)


def counted(function, calls: list):
    def call(*args, **settings):
        calls.append(args)
        return function(*args, **settings)

    return call
