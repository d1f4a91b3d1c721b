"""The laws, asked of random models made of all operators that the label flow knows."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import pytest
from conditional import in_branches
from fuzz.graphs import OPERATORS, begin, random_model
from fuzz.grower import Grower, UnfitError
from fuzz.laws import check_law, check_reap, compare
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from looping import in_trips
from net import Net
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, RuntimeException
from small_models import images, run

from onnx_reap.graph.rules.table import RULES

quick = partial(
    settings,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
seeds, steps = st.integers(0, 2**32 - 1), st.integers(1, 10)


def test_the_generator_knows_every_operator_of_the_table():
    assert OPERATORS.keys() == RULES.keys()


@pytest.mark.parametrize("op", OPERATORS)
def test_every_operator_can_be_drawn(op: str):
    refusals = []
    for seed in range(300):
        g = Grower(random.Random(seed))
        begin(g)
        try:
            OPERATORS[op](g)
        except UnfitError as refusal:
            refusals.append(str(refusal))
        else:
            assert op in {node.op_type for node in g.nodes}
            return
    if any(f"implementation for {op}(" in refusal for refusal in refusals):
        pytest.skip("onnxruntime lacks it")
    raise AssertionError("; ".join(sorted(set(refusals))))


@pytest.mark.parametrize("wrong", [lambda w: 2 * w, lambda w: np.roll(w, 1, 1)], ids=["x2", "roll"])
def test_the_comparison_tells_a_wrong_model(wrong):
    n = Net({"x": ("N", 3, 6, 6)})
    y = n.head(n.block("x", 3, 8), 8, 5)
    right, feed = n.model(y), {"x": images(2, 6)}
    compare(right, right, feed)
    n.weights["c0"] = wrong(n.weights["c0"])
    with pytest.raises(AssertionError, match="off by"):
        compare(right, n.model(y), feed)


def test_cuts_of_random_graphs():
    seen: Counter[str] = Counter()

    @quick(max_examples=60)
    @given(seeds, steps, seeds)
    def check(seed: int, steps: int, removal: int) -> None:
        trial = check_law(random_model(seed, steps), random.Random(removal))
        seen.update(graphs=1, cut=bool(trial.removed))

    check()
    assert seen["cut"] > 0.5 * seen["graphs"], "a generator of frozen graphs tests nothing"


def test_cuts_of_random_graphs_in_the_branch_of_an_if():
    """The branch that is always taken loses what the same nodes would lose outside."""

    @quick(max_examples=20)
    @given(seeds, steps, seeds)
    def check(seed: int, steps: int, removal: int) -> None:
        drawn = random_model(seed, steps)
        inside = replace(drawn, model=in_branches(drawn.model, own=False, switch=False))
        trials = [check_law(each, random.Random(removal)) for each in (drawn, inside)]
        assert len(trials[0].removed) == len(trials[1].removed)

    check()


def test_cuts_of_random_graphs_in_the_body_of_a_loop():
    seen: Counter[str] = Counter()

    @quick(max_examples=30)
    @given(seeds, steps, seeds)
    def check(seed: int, steps: int, removal: int) -> None:
        drawn = random_model(seed, steps)
        try:
            looped = in_trips(drawn.model, drawn.feeds, random.Random(removal))
            made = run(looped.model, looped.feeds)
        except (onnx.checker.ValidationError, RuntimeException, Fail):
            return  # onnxruntime wants shapes in the body of a Scan that onnx can't infer
        if not all(np.isfinite(x).all() for x in made if x.dtype.kind == "f"):
            return  # a sum may leave the domain of Acos
        inside = replace(drawn, model=looped.model, feeds=looped.feeds)
        trial = check_law(inside, random.Random(removal))
        ops = {node.op for node in trial.analysis.model.nodes}
        seen.update(graphs=1, cut=bool(trial.removed), written_out=ops.isdisjoint({"Loop", "Scan"}))

    check()
    assert seen["graphs"] > 20
    assert seen["written_out"] > 0.9 * seen["graphs"]
    assert seen["cut"] > 0.5 * seen["graphs"]


def test_whole_runs_on_random_graphs(monkeypatch):

    @quick(max_examples=12)
    @given(seeds, steps, seeds)
    def check(seed: int, steps: int, request: int) -> None:
        check_reap(random_model(seed, steps), random.Random(request))

    check()
