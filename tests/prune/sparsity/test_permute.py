"""Channels change places, and the model computes the same."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from fuzz.graphs import random_model
from fuzz.laws import compare, shapes_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nets import NETS, chain, neighbours, shuffled
from oracle import assert_same_function, study

from onnx_reap.graph.groups import Group
from onnx_reap.graph.labels.kept import Kept
from onnx_reap.options import Settings
from onnx_reap.progress import NoProgress
from onnx_reap.prune.context import open_run
from onnx_reap.prune.sparsity.permute import movable, orders, permute_graph, reorder


def drawn(groups: list[Group], seed: int) -> dict[int, int]:
    """Shuffle every part of every group."""
    rng = np.random.default_rng(seed)
    moves: dict[int, int] = {}
    for group in groups:
        parts = np.array(group.parts or (0,) * group.width)
        for part in np.unique(parts):
            own = np.array(group.units)[parts == part]
            moves.update(zip(own.tolist(), rng.permutation(own).tolist(), strict=True))
    return {unit: comes for unit, comes in moves.items() if unit != comes}


def permuted(studied, seed: int = 0) -> tuple[onnx.ModelProto, Kept]:
    free, _ = movable(studied.model, studied.flow, studied.groups)
    found = orders(studied.flow, drawn(free, seed))
    assert not isinstance(found, str), found
    model = studied.copy()
    permute_graph(model, studied.flow, found)
    return model.to_proto(), found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETS)
def test_the_function_stays(name: str, seed: int):
    studied = study(NETS[name]())
    other, found = permuted(studied, seed)
    assert found, "nothing moved"
    # The same sums in another order: a few roundings of float32 a layer.
    assert_same_function(studied.copy().to_proto(), other, (1, 3), 2e-5)


def test_the_comparison_tells_a_doubled_weight():
    studied = study(chain())
    other, _ = permuted(studied)
    weight = next(t for t in other.graph.initializer if len(t.dims) == 4)
    weight.CopyFrom(
        onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(weight), weight.name)
    )
    with pytest.raises(AssertionError):
        assert_same_function(studied.copy().to_proto(), other, (1,), 2e-5)


def test_the_comparison_tells_a_constant_that_was_left_out():
    studied = study(chain())
    free, _ = movable(studied.model, studied.flow, studied.groups)
    found = orders(studied.flow, drawn(free, 0))
    assert not isinstance(found, str)
    model = studied.copy()
    first = studied.flow.linears[0].y
    permute_graph(model, studied.flow, {first: found[first]})
    with pytest.raises(AssertionError):
        assert_same_function(studied.copy().to_proto(), model.to_proto(), (1,), 2e-5)


def test_what_neighbours_make_stays():
    studied = study(neighbours())
    free, stuck = movable(studied.model, studied.flow, studied.groups)
    assert free
    assert [why for why in stuck.values() if "makes them without weights" in why]


def test_channels_stay_in_their_group_of_a_convolution():
    studied = study(shuffled())
    grouped = [group for group in studied.groups if group.parts is not None]
    assert grouped
    units = grouped[0].units
    other = next(
        u for u, p in zip(units, grouped[0].parts, strict=True) if p != grouped[0].parts[0]
    )
    assert isinstance(orders(studied.flow, {units[0]: other, other: units[0]}), str)


def test_random_graphs():
    seen: Counter[str] = Counter()

    @settings(
        max_examples=40,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.integers(0, 2**32 - 1), st.integers(1, 10), st.integers(0, 99))
    def check(seed: int, steps: int, shuffle: int) -> None:
        model = random_model(seed, steps)
        wanted = Settings.make({"samples": 4, "input_shapes": shapes_of(model)})
        analysis = open_run(model.model, None, wanted, NoProgress()).analysis
        free, _ = movable(analysis.model, analysis.flow, analysis.groups)
        found = orders(analysis.flow, drawn(free, shuffle))
        assert not isinstance(found, str), found
        other = analysis.copy()
        permute_graph(other, analysis.flow, found)
        compare(analysis.copy().to_proto(), other.to_proto(), model.feeds)
        seen.update(graphs=1, moved=bool(found))

    check()
    assert seen["moved"] > 0.5 * seen["graphs"], "graphs in which nothing moves test nothing"


def test_positions_of_a_unit_move_in_their_order():
    order = reorder(np.array([7, 7, 3, 3, 0]), {7: 3, 3: 7})
    np.testing.assert_array_equal(order, [2, 3, 0, 1, 4])


def test_a_unit_that_is_missing_is_not_guessed():
    assert reorder(np.array([7, 7, 3]), {7: 3, 3: 7}) is None
    assert reorder(np.array([7, 5]), {7: 3, 3: 7}) is None


@pytest.mark.zoo
def test_a_zoo_model_stays_the_same(zoo_model: Path):
    from test_zoo import HALF_TOLERANCE, TOLERANCE, _materialize

    proto = _materialize(zoo_model)
    half = any(t.data_type == onnx.TensorProto.FLOAT16 for t in proto.graph.initializer)
    studied = study(proto, dynamic=32)
    other, found = permuted(studied, random.Random(0).randrange(100))
    if not found:
        pytest.skip("nothing can move")
    batches = (1,) if studied.probe.batch == 1 else (1, 3)
    tolerance = HALF_TOLERANCE if half else TOLERANCE
    assert_same_function(studied.copy().to_proto(), other, batches, tolerance, dynamic=32)
