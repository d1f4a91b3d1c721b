import numpy as np
import pytest

from onnx_reap.graph.labels.labels import (
    Labels,
    Reason,
    along,
    collapse,
    compress,
    first_along,
    varying_axes,
    vector_along,
)

WHY, OTHER = Reason("node", "because"), Reason("other", "of that")


def test_fresh_labels_are_sets_of_their_own():
    sets = Labels()
    a, b = sets.fresh(3), sets.fresh(2)
    assert a.tolist() == [1, 2, 3]
    assert b.tolist() == [4, 5]
    assert sets.roots(np.concatenate([a, b])).tolist() == [1, 2, 3, 4, 5]


def test_growing_keeps_what_was_united():
    sets = Labels()
    a = sets.fresh(10)
    sets.unite(a[:5], a[5:], WHY)
    sets.fresh(100_000)
    assert sets.roots(a).tolist() == [1, 2, 3, 4, 5] * 2


def test_unite_is_transitive_and_broadcasts():
    sets = Labels()
    a, b = sets.fresh(3), sets.fresh(3)
    assert sets.unite(a[:, None], np.broadcast_to(b[:, None], (3, 4)), WHY)
    assert not sets.unite(a, b, WHY)
    c = sets.fresh(1)
    sets.unite(b[:1], c, WHY)
    assert sets.roots(np.array([1, 4, 7])).tolist() == [1, 1, 1]
    assert sets.roots(np.array([2, 5])).tolist() == [2, 2]


def test_frozen_members_know_the_first_reason():
    sets = Labels()
    a = sets.fresh(4)
    sets.unite(a[:1], a[1:2], WHY)
    sets.freeze(a[:1], WHY)
    sets.freeze(a[1:3], OTHER)
    assert sets.roots(a).tolist() == [0, 0, 0, 4]
    assert sets.reasons == {1: WHY, 2: WHY, 3: OTHER}


def test_uniting_with_a_frozen_label_freezes_the_whole_set():
    sets = Labels()
    a = sets.fresh(4)
    sets.unite(a[:3], a[1:], WHY)
    sets.unite(a[3:], np.zeros(1, np.int64), OTHER)
    assert not sets.roots(a).any()
    assert set(sets.reasons.values()) == {OTHER}


def test_roots_stay_views():
    sets = Labels()
    spread = along(sets.fresh(8), (2, 8, 1000, 1000), 1)
    roots = sets.roots(spread)
    assert roots.shape == spread.shape
    assert collapse(roots).size == 8


def test_compress():
    labels = np.array([[[1, 1], [2, 2]], [[1, 1], [2, 2]]])
    assert collapse(compress(labels)).shape == (1, 2, 1)
    assert (compress(labels) == labels).all()
    assert varying_axes(labels) == (1,)
    assert varying_axes(np.zeros((3, 4), np.int64)) == ()
    assert varying_axes(np.arange(4).reshape(2, 2)) == (0, 1)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_along_and_back(axis):
    shape = [3, 3, 3]
    vector = np.arange(3)
    spread = along(vector, shape, axis)
    assert spread.shape == (3, 3, 3)
    assert vector_along(spread, axis).tolist() == [0, 1, 2]
    assert first_along(spread, {0, 1, 2} - {axis}).size == 3
