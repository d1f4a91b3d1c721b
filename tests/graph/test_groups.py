"""Units of one form of a model are looked up in another by group and place."""

import pytest

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
