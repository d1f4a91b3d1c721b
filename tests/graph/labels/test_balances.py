"""Balances against brute force."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_reap.graph.labels.balances import joint_parts, occurrences, part_of_units, surplus


def _even(units: np.ndarray, parts: int, removed: set[int]) -> bool:
    stays = ~np.isin(units, list(removed))
    return len({int(part.sum()) for part in np.split(stays, parts)}) == 1


def _kinds(*vectors: np.ndarray) -> dict[int, str]:
    return occurrences({f"t{i}": v for i, v in enumerate(vectors)})


def test_plain_parts():
    assert part_of_units(np.arange(1, 9), 2) == dict(
        zip(range(1, 9), [0] * 4 + [1] * 4, strict=True)
    )


def test_units_in_all_parts_need_no_balance():
    assert part_of_units(np.array([1, 2, 3, 1, 2, 3]), 2) == {}


def test_frozen_channels_may_lie_anywhere_evenly():
    assert part_of_units(np.array([0, 1, 2, 0, 3, 4]), 2) == {1: 0, 2: 0, 3: 1, 4: 1}


def test_uneven_parts_have_no_balance():
    assert part_of_units(np.array([0, 1, 2, 3]), 2) is None
    assert surplus(np.array([0, 1, 2, 3]), 2).tolist() == [3]


def test_straddling_units_go_first():
    units = np.array([1, 2, 3, 3, 3, 4, 5, 6])
    assert part_of_units(units, 2) is None
    assert surplus(units, 2).tolist() == [3]
    units[2:5] = 0
    assert surplus(units, 2).tolist() == [6]
    units[7] = 0
    assert part_of_units(units, 2) == {1: 0, 2: 0, 4: 1, 5: 1}


@settings(max_examples=300, deadline=None)
@given(st.integers(2, 4), st.data())
def test_part_of_units_against_brute_force(parts, data):
    """Any removal with equal counts per class keeps the parts equal."""
    each = data.draw(st.integers(1, 4))
    size = parts * each
    units = np.array(data.draw(st.lists(st.integers(0, 6), min_size=size, max_size=size)))
    of = part_of_units(units, parts)
    if of is None:
        fewer = units.copy()
        while part_of_units(fewer, parts) is None:
            over = surplus(fewer, parts)
            assert over.size
            assert over.all()
            fewer[np.isin(fewer, over)] = 0
        return
    everywhere = set(units.tolist()) - {0} - of.keys()
    for unit in everywhere:
        assert _even(units, parts, {unit})
    classes = [[u for u in of if of[u] == c] for c in sorted(set(of.values()))]
    for count in range(len(classes[0]) + 1 if classes else 0):
        for removed in itertools.product(*(itertools.combinations(c, count) for c in classes)):
            assert _even(units, parts, {u for some in removed for u in some})


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_joint_parts_against_brute_force(data):
    """Equal counts per class serve all axes at once, and empty none of them."""
    ties = []
    for _ in range(data.draw(st.integers(1, 3))):
        parts, each = data.draw(st.sampled_from([(2, 2), (2, 3), (3, 2), (4, 1), (2, 4), (4, 2)]))
        start = data.draw(st.sampled_from([1, 1, 3, 5]))
        units = data.draw(st.permutations(range(start, start + parts * each)))
        ordered = data.draw(st.booleans())
        ties.append((np.array(sorted(units) if ordered else units), parts))
    balances, stuck = joint_parts(ties, _kinds(*(units for units, _ in ties)))
    covered = [unit for balance in balances for unit in balance.units]
    assert len(covered) == len(set(covered))
    assert not set(covered) & set(stuck)
    needed = {u for units, parts in ties for u in (part_of_units(units, parts) or {})}
    assert needed == set(covered) | set(stuck)
    rng = np.random.default_rng(0)
    for balance in balances:
        assert len({len(members) for members in balance.classes}) == 1
        for count in range(len(balance.classes[0])):
            removed = {u for c in balance.classes for u in rng.permutation(c)[:count].tolist()}
            for units, parts in ties:
                assert _even(units, parts, removed)
                assert not removed.issuperset(units.tolist())


def test_nested_parts_fit_together():
    units = np.arange(1, 9)
    balances, stuck = joint_parts([(units, 2), (units, 4)], _kinds(units))
    assert [balance.classes for balance in balances] == [((1, 2), (3, 4), (5, 6), (7, 8))]
    assert not stuck


def test_crossing_parts_may_fit_together():
    """Rows and columns of a table."""
    rows, columns = np.arange(1, 5), np.array([1, 3, 2, 4])
    balances, _ = joint_parts([(rows, 2), (columns, 2)], _kinds(rows))
    assert [balance.classes for balance in balances] == [((1,), (2,), (3,), (4,))]


def test_overlapping_ties_are_stuck():
    both, some = np.arange(1, 9), np.arange(1, 5)
    balances, stuck = joint_parts([(both, 2), (some, 2)], _kinds(both, some))
    assert not balances
    assert sorted(stuck) == list(range(1, 9))


def test_units_of_different_tensors_are_of_different_kinds():
    """Two of one branch and two of another can't stand for four of a kind."""
    first, second, both = np.array([1, 2]), np.array([3, 4]), np.array([1, 2, 3, 4, 5, 6, 7, 8])
    balances, stuck = joint_parts([(both, 2)], _kinds(first, second, both))
    assert not balances
    assert len(stuck) == 8
