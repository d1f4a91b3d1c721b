"""One block: descend, judge, and never be worse off."""

from __future__ import annotations

import numpy as np
import pytest
from net import Net
from small_models import images, run

from onnx_reap.data import open_calibration
from onnx_reap.graph.analysis import analyse
from onnx_reap.graph.inputs import model_inputs
from onnx_reap.measure.autodiff.backward import Facts, with_errors, with_gradients
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.prune.refit.block_training import BlockProblem, Training
from onnx_reap.prune.refit.step_sizes import StepSizes
from onnx_reap.solve.descent import Descent

CPU = ["CPUExecutionProvider"]


class Block:
    """Two layers, their weights, and inputs in batches of 8."""

    def __init__(self, seed: int = 0, batches: int = 6) -> None:
        net = Net({"x": ("N", 3, 6, 6)}, seed)
        one, two = net.random(6, 3, 3, 3, scale=0.2), net.random(4, 6, 1, 1, scale=0.4)
        h = net.node("Relu", net.node("Conv", "x", one, pads=[1] * 4))
        self.y = net.node("Conv", h, two)
        model = net.model(self.y)
        inputs = model_inputs(model)
        data = images(8 * batches, 6, seed)
        analysis = analyse(model, inputs, open_calibration(data, inputs))
        self.start = {name: net.weights[name] for name in (one, two)}
        fed = {"x": np.dtype(np.float32), **{n: w.dtype for n, w in self.start.items()}}
        self.part = analysis.model.part(fed, [self.y]).whole()
        layers = {linear.y: linear for linear in analysis.flow.linears}
        self.facts = Facts(analysis.probe.shapes, layers)
        self.given = [{"x": data[i : i + 8]} for i in range(0, len(data), 8)]
        spreads = {name: np.asarray(w.std(), np.float32) for name, w in self.start.items()}
        self.sizes = StepSizes(spreads, {one: 1, two: 1})

    def outputs(self, weights=None) -> list[np.ndarray]:
        return [run(self.part, {**batch, **(weights or self.start)})[0] for batch in self.given]

    def models(self, weight, free):
        given = LightModel(self.part), self.facts, {self.y: weight}
        return with_gradients(*given, free), with_errors(*given)

    def improve(self, wanted, *, fitting=4, passes=15, together=1):
        models = self.models(1 / wanted[0].size, list(self.start))
        targets = [{self.y: y.astype(np.float32), "nobody's": y} for y in wanted]
        problem = BlockProblem(self.given, targets, fitting, together)
        training = Training(*models, {}, problem, CPU)
        found, before, after = training.improve(
            self.start, self.sizes, passes, np.random.default_rng(0)
        )
        validates = slice(fitting, None)
        errors = [
            np.mean([np.square(a - b).mean() for a, b in zip(ys, wanted[validates], strict=True)])
            for ys in (self.outputs()[validates], self.outputs(found)[validates])
        ]
        # Errors are means of float32 squares.
        assert before == pytest.approx(errors[0], rel=1e-4, abs=1e-9)
        assert after == pytest.approx(errors[1], rel=1e-4, abs=1e-9)
        return found, before, after


def test_a_short_last_batch_weighs_as_much_as_its_samples():
    block = Block()
    rng = np.random.default_rng(3)
    wanted = [y + rng.normal(size=y.shape) * (i + 1) for i, y in enumerate(block.outputs())]
    block.given[-1] = {"x": block.given[-1]["x"][:3]}
    wanted[-1] = wanted[-1][:3]
    models = block.models(1 / wanted[0].size, [])
    targets = [{block.y: y.astype(np.float32)} for y in wanted]
    training = Training(*models, block.start, BlockProblem(block.given, targets, 4), CPU)
    _, before, _ = training.improve({}, StepSizes({}, {}), 0, rng)
    pairs = zip(block.outputs()[4:], wanted[4:], strict=True)
    squares = np.concatenate([np.square(a - b).ravel() for a, b in pairs])
    assert before == pytest.approx(squares.mean(), rel=1e-4)  # means of float32 squares


def unchanged(block: Block, found) -> bool:
    return all(np.array_equal(found[name], x) for name, x in block.start.items())


@pytest.mark.parametrize(("as_matrices", "passes"), [(False, 15), (True, 25)])
def test_weights_that_moved_are_found_again(as_matrices: bool, passes: int):
    block = Block()
    if not as_matrices:
        block.sizes = StepSizes(block.sizes.scales, {})
    rng = np.random.default_rng(5)
    moved = {
        name: (x + 0.3 * x.std() * rng.standard_normal(x.shape)).astype(np.float32)
        for name, x in block.start.items()
    }
    found, before, after = block.improve(block.outputs(moved), passes=passes)
    assert after < 0.1 * before
    assert not unchanged(block, found)


def test_batches_whose_gradients_are_added_are_as_good_as_one():
    block, halves = Block(), Block()
    halves.given = [{"x": x} for b in block.given for x in (b["x"][:4], b["x"][4:])]
    rng = np.random.default_rng(5)
    moved = {
        name: (x + 0.3 * x.std() * rng.standard_normal(x.shape)).astype(np.float32)
        for name, x in block.start.items()
    }
    whole, _, _ = block.improve(block.outputs(moved), fitting=2, passes=4, together=2)
    parts, _, _ = halves.improve(halves.outputs(moved), fitting=4, passes=4, together=4)
    for name, x in whole.items():  # float32 sums in another order, through 4 steps
        np.testing.assert_allclose(parts[name], x, rtol=0, atol=1e-3 * np.abs(x).max())


def test_what_fits_already_stays():
    block = Block()
    found, before, after = block.improve(block.outputs())
    assert before == after < 1e-9
    assert unchanged(block, found)


def test_where_nothing_helps_the_start_is_returned():
    """Those that fit want something else than those that judge."""
    block = Block()
    rng = np.random.default_rng(1)
    wanted = block.outputs()
    fitted = [y * -2 for y in wanted[:4]]
    judged = [y + 0.01 * rng.standard_normal(y.shape) for y in wanted[4:]]
    found, before, after = block.improve([*fitted, *judged])
    assert before == after > 0
    assert unchanged(block, found)


@pytest.mark.parametrize("helps", [True, False])
def test_descent_is_given_up_where_it_does_not_help(helps, monkeypatch):
    taken = []
    step = Descent.step
    monkeypatch.setattr(Descent, "step", lambda *args: (taken.append(1), step(*args))[1])
    block = Block()
    rng = np.random.default_rng(1)
    wanted = [y + 0.1 * rng.standard_normal(y.shape) for y in block.outputs()]
    fitted, judged = [y * (1.5 if helps else -2) for y in wanted[:4]], wanted[4:]
    block.improve([*fitted, *(y * (1.5 if helps else 1) for y in judged)], passes=30)
    assert len(taken) == (120 if helps else 48)


def test_the_judges_are_never_worse_off():
    better = 0
    for seed in range(12):
        block = Block(seed)
        rng = np.random.default_rng(seed)
        noise = 10.0 ** rng.uniform(-2, 1)
        wanted = [y + noise * rng.standard_normal(y.shape) for y in block.outputs()]
        found, before, after = block.improve(wanted, passes=3)
        assert after <= before
        assert (after == before) == unchanged(block, found)
        better += after < before
    assert better > 0


def test_no_infinite_result_is_taken():
    """Activations that overflow while weights move end in infinite errors, not in the weights."""
    block = Block()
    wanted = [y * np.float32(1e25) for y in block.outputs()]
    found, before, after = improved_quietly(block, wanted)
    assert all(np.isfinite(x).all() for x in found.values())
    assert unchanged(block, found) or after < before


def improved_quietly(block: Block, wanted):
    models = block.models(1.0, list(block.start))
    problem = BlockProblem(block.given, [{block.y: y} for y in wanted], 4)
    training = Training(*models, {}, problem, CPU)
    return training.improve(block.start, block.sizes, 4, np.random.default_rng(0))
