"""Units of one form of a model are looked up in another by group and place."""

import numpy as np
import pytest
from net import Net

import onnx_reap
from onnx_reap.graph.groups import Group, corresponding_units, translate


def groups(**units: tuple[int, ...]) -> tuple[Group, ...]:
    return tuple(Group(name, own, (), ()) for name, own in units.items())


GIVEN = groups(stem=(3, 5, 8), head=(9, 10))
FACTORED = groups(stem=(1, 2, 4), head_basis=(6, 7), head=(11, 12))


def test_units_keep_their_group_and_place() -> None:
    assert translate((8, 3, 10), GIVEN, FACTORED) == (1, 4, 12)


def test_units_of_groups_that_the_target_lacks_are_left_out() -> None:
    assert translate((2, 6, 7, 11), FACTORED, GIVEN) == (5, 9)


def test_there_and_back_is_the_same() -> None:
    units = tuple(unit for group in GIVEN for unit in group.units)
    assert translate(translate(units, GIVEN, FACTORED), FACTORED, GIVEN) == units


def test_groups_of_another_width_belong_to_another_model() -> None:
    with pytest.raises(ValueError):
        corresponding_units(GIVEN, groups(stem=(1, 2)))


def test_a_unit_stands_for_as_many_channels_as_each_layer_has_of_it() -> None:
    n = Net({"x": ("N", 3, 8, 8)})
    y = n.node("Reshape", n.conv("x", 3, 32), n.constant(np.array([0, 8, -1])))
    y = n.node("InstanceNormalization", y, n.random(8), n.random(8))
    y = n.node("Reshape", y, n.constant(np.array([0, 32, 8, 8])))
    wide = n.conv(n.node("Relu", y), 32, 48)
    n.output(n.conv(n.node("DepthToSpace", wide, blocksize=2), 12, 4))
    model = n.model()
    groups = onnx_reap.inspect(model).groups
    assert [(group.width, group.unit) for group in groups] == [(8, 4), (12, 1)]
    for options, least in (({"min_channels": 9}, [4, 9]), ({"round_to": 8}, [2, 8])):
        found = onnx_reap.inspect(model, vanish=False, **options).groups
        assert [group.widths[0] for group in found] == least
