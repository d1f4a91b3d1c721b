"""Comparing the cut with the masked model: what is wrong is refused, what can't be told is said."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import pytest
from net import Net

from onnx_reap.errors import CheckError
from onnx_reap.measure.compare import CUT, SAME, compare
from onnx_reap.measure.witnesses import find_jumps

X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
FEEDS = [{"x": X}]
CPU = ["CPUExecutionProvider"]
INT, BOOL = onnx.TensorProto.INT64, onnx.TensorProto.BOOL


def pair(tail, difference: float = 0.0, kind: int | None = None):
    """Two models x + shift -> tail, the second shift a little larger."""

    def build(shift: float) -> onnx.ModelProto:
        n = Net({"x": ("N", 4)})
        y = tail(n, n.node("Add", "x", n.constant(np.full(4, shift)), name="h"))
        return n.model(y, types={} if kind is None else {y: kind})

    return build(1.0), build(1.0 + difference)


def check(models, kept=None) -> list[str]:
    return compare(*models, FEEDS, CPU, CUT, places=kept or {})[1]


def test_the_same_is_the_same():
    assert check(pair(lambda n, h: n.node("Exp", h), 1e-6)) == []


@pytest.mark.parametrize("difference", [0.05, -0.05, np.nan, np.inf])
def test_another_value_is_refused(difference):
    with pytest.raises(CheckError, match="is not the masked model"):
        check(pair(lambda n, h: n.node("Exp", h), difference))


def saturated(shift: float, *behind: str):
    """Scores of a detector that finds nothing, far below one, or is sure of everything."""

    def tail(n: Net, h: str) -> str:
        y = n.node("Sigmoid", n.node("Add", h, n.constant(np.full(4, shift)), name="scores"))
        for op in behind:
            y = n.node(op, *[y] * (1 + (op == "Concat")), **({"axis": 1} if op == "Concat" else {}))
        return y

    return tail


@pytest.mark.parametrize("behind", [(), ("Transpose", "Concat")])
@pytest.mark.parametrize("shift", [-13.0, -30.0, 30.0])
def test_a_saturated_output_may_be_off_by_the_rounding_of_numbers_near_one(shift, behind):
    models = pair(saturated(shift, *behind), 2e-6)
    assert check(models) == []
    assert compare(*models, FEEDS, CPU, SAME)[1] == []


@pytest.mark.parametrize("behind", [(), ("Transpose", "Concat")])
@pytest.mark.parametrize("shift", [-13.0, -30.0, 30.0])
def test_a_saturated_output_hides_no_wrong_cut(shift, behind):
    wrong = pair(saturated(shift, *behind), 0.2)
    with pytest.raises(CheckError, match="tensor scores_y"):
        check(wrong)
    with pytest.raises(CheckError, match="tensor scores_y"):
        compare(*wrong, FEEDS, CPU, SAME)


def choosing(n: Net, h: str) -> str:
    """Boxes beside scores far below one, of which the highest are taken."""
    low = n.node("Add", h, n.constant(np.full(4, -16.0)), name="scores")
    both = n.node("Concat", n.node("Mul", h, h, name="boxes"), n.node("Sigmoid", low), axis=1)
    _, scores = n.node("Split", both, n.constant(np.array([4, 4])), outputs=2, axis=1)
    best = n.node("ReduceMax", scores, axes=[1], keepdims=1, name="best")
    return n.node("TopK", best, n.constant(np.array([1])), outputs=2, axis=1)[0]


def test_what_saturates_in_front_of_a_jump_has_the_same_leeway_and_hides_as_little():
    models = pair(choosing, 2e-6)
    assert all("TopK" in note for note in check(models))
    with pytest.raises(CheckError, match=r"tensor (scores|boxes)_y"):
        check(pair(choosing, 0.05))


def test_small_outputs_that_no_activation_made_have_no_such_leeway():
    def tail(n: Net, h: str) -> str:
        small = n.node("Mul", n.node("Sigmoid", h), n.constant(np.full(4, 1e-6)))
        return n.node("Mul", small, h)

    assert check(pair(tail, 1e-6)) == []
    with pytest.raises(CheckError, match="tensor mul"):
        check(pair(tail, 0.05))


def test_twice_the_output_and_shifted_outputs_are_refused():
    model, _ = pair(lambda n, h: n.node("Exp", h))
    for change in (
        lambda n, h: n.node("Mul", n.node("Exp", h), n.constant(np.array(2.0))),
        lambda n, h: n.node("Gather", n.node("Exp", h), n.constant(np.array([1, 2, 3, 0])), axis=1),
    ):
        other, _ = pair(change)
        other.graph.node[-1].output[0] = model.graph.output[0].name
        other.graph.output[0].CopyFrom(model.graph.output[0])
        for node in other.graph.node[:-1]:
            if node.op_type == "Exp":
                node.output[0] = "inner"
        other.graph.node[-1].input[0] = "inner"
        with pytest.raises(CheckError):
            check((model, other))


def test_nan_and_infinity_may_be_there_if_they_are_there_in_both():
    log = pair(lambda n, h: n.node("Log", n.node("Sub", h, n.constant(np.full(4, 1.0)))), 1e-8)
    assert check(log) == []


def test_integers_must_be_the_same():
    rounded = pair(lambda n, h: n.node("Shape", h), kind=INT)
    assert check(rounded) == []
    other = pair(lambda n, h: n.node("Shape", n.node("Concat", h, h, axis=1)), kind=INT)
    other[0].graph.node[-1].output[0] = rounded[0].graph.output[0].name
    other[0].graph.output[0].CopyFrom(rounded[0].graph.output[0])
    with pytest.raises(CheckError, match="other integers"):
        check((rounded[0], other[0]))


def jump(n: Net, h: str) -> str:
    return n.node("Greater", h, n.constant(np.full(4, np.float32(X[1, 1] + np.float32(1)))))


def test_a_jump_over_a_difference_of_rounding_is_told_not_refused():
    notes = check(pair(jump, 1e-6, BOOL))
    assert len(notes) == 1 and "Greater" in notes[0] and "could not be verified" in notes[0]


def test_what_saturates_behind_a_jump_is_told_once():
    def tail(n: Net, h: str) -> str:
        return n.node("Sigmoid", n.node("Cast", jump(n, h), to=onnx.TensorProto.FLOAT))

    assert len(check(pair(tail, 1e-6))) == 1


def test_a_jump_without_a_difference_is_fine():
    assert check(pair(jump, 0.0, BOOL)) == []


def test_what_goes_into_a_jump_must_agree():
    with pytest.raises(CheckError, match="tensor h_y"):
        check(pair(jump, 0.05, BOOL))
    with pytest.raises(CheckError, match="tensor h_y"):  # though the output is the same
        check(pair(lambda n, h: n.node("ArgMax", h, axis=1), 0.05, INT))


def test_another_number_of_results_behind_a_jump_is_told():
    notes = check(pair(lambda n, h: n.node("NonZero", jump(n, h)), 1e-6, INT))
    assert len(notes) == 1 and "Greater" in notes[0]


def test_smooth_tensors_that_join_behind_a_jump_are_compared_as_well():
    def tail(n: Net, h: str) -> str:
        best = n.node("ArgMax", h, axis=1)
        other = n.node("Mul", "x", n.constant(np.array(3.0)), name="side")
        return n.node("GatherND", other, n.node("Unsqueeze", best, n.constant([1])), batch_dims=1)

    model, same = pair(tail)
    assert check((model, same)) == []
    causes, witnesses = find_jumps(model.graph)
    assert set(witnesses) == {"h_y", "side_y"}
    assert set(causes) == {name for node in model.graph.node for name in node.output} - {
        "h_y",
        "side_y",
    }


def test_witnesses_that_were_cut_are_compared_where_they_are_left():
    masked, _ = pair(lambda n, h: n.node("ReduceMax", n.node("Round", h)))
    n = Net({"x": ("N", 4)})
    x = n.node("Gather", "x", n.constant([0, 2, 3]), axis=1, name="x3")
    h = n.node("Add", x, n.constant(np.full(3, 1.0)), name="h")
    y = n.node("ReduceMax", n.node("Round", h), name="reducemax2")
    cut = n.model(y)
    masked.graph.node[-1].output[0] = masked.graph.output[0].name = y
    kept = {"h_y": (1, np.array([0, 2, 3]))}
    assert check((masked, cut), kept) == []
    with pytest.raises(CheckError, match="tensor h_y"):
        check((masked, cut), {"h_y": (1, np.array([0, 1, 3]))})


def test_random_results_count_as_jumps():
    model, _ = pair(lambda n, h: n.node("Exp", n.node("RandomNormalLike", h)))
    causes, _ = find_jumps(model.graph)
    assert causes[model.graph.output[0].name] == "RandomNormalLike"


def test_sequences_are_compared_element_by_element():
    def tail(n: Net, h: str) -> str:
        return n.node("SplitToSequence", h, axis=1)

    def sequence(difference: float):
        models = pair(lambda n, h: tail(n, h), difference)
        for model in models:
            name = model.graph.output[0].name
            model.graph.output[0].CopyFrom(
                onnx.helper.make_tensor_sequence_value_info(name, onnx.TensorProto.FLOAT, None)
            )
        return models

    assert check(sequence(1e-7)) == []
    with pytest.raises(CheckError):
        check(sequence(0.05))


def top(factor: float, inner: float = 1.0):
    """Scores through a dense layer, of which the best are told."""
    n = Net({"x": ("N", 4)})
    hidden = n.node("MatMul", "x", n.constant(inner * n.rng.standard_normal((4, 6))))
    scores = n.node("MatMul", hidden, n.constant(factor * n.rng.standard_normal((6, 8)) / inner))
    values, places = n.node("TopK", scores, n.constant(np.array([3])), outputs=2, axis=1)
    return n.model(n.node("Neg", values), places), hidden


def test_models_that_must_agree_do_so_in_front_of_jumps():
    feeds = [{"x": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)}]
    (model, hidden), (other, _), (rescaled, _) = top(1.0), top(-7.0), top(1.0, inner=2.0)
    check = partial(compare, feeds=feeds, providers=CPU, claim=SAME)
    assert check(model, model) == (0.0, [])
    with pytest.raises(CheckError, match="changed"):
        check(model, other)
    assert check(model, rescaled)[0] < 1e-6
    with pytest.raises(CheckError, match=hidden):
        check(model, rescaled, also=[hidden])
    places = {hidden: (1, np.arange(6)[::-1])}
    with pytest.raises(CheckError, match=hidden):
        check(model, model, also=[hidden], places=places)


def centred(n: Net, h: str) -> str:
    """The mean of what a normalisation centred, which is 0 but for rounding."""
    flat = n.node("Unsqueeze", h, n.constant(np.array([1])))
    even = n.node("MeanVarianceNormalization", flat, axes=[2])
    return n.node("ReduceMean", even, axes=[2], keepdims=0)


def test_what_is_mere_rounding_is_not_compared():
    (note,) = check(pair(centred, 1e-3))
    assert "could not be compared: it is mere rounding" in note


def test_outputs_of_rounding_hide_no_wrong_one():
    def build(shift: float, factor: float) -> onnx.ModelProto:
        n = Net({"x": ("N", 4)})
        for _ in "ab":
            n.output(centred(n, n.node("Add", "x", n.constant(np.full(4, shift)))))
        n.output(n.node("Mul", "x", n.constant(np.full(4, factor))))
        return n.model()

    assert len(check((build(1.0, 2.0), build(1.001, 2.0)))) == 2
    with pytest.raises(CheckError, match="mul"):
        check((build(1.0, 2.0), build(1.001, 2.1)))


def test_what_is_more_than_rounding_is_compared():
    """Another model gives numbers near 1 where the first gives rounding."""

    def mean(n: Net, h: str) -> str:
        flat = n.node("Unsqueeze", h, n.constant(np.array([1])))
        return n.node("ReduceMean", n.node("Identity", flat), axes=[2], keepdims=0)

    with pytest.raises(CheckError, match="is not the masked model"):
        check((pair(centred)[0], pair(mean)[0]))
