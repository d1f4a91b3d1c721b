"""What outputs vary by: every entry about its own mean, streamed, whatever the outputs' shapes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from net import Net

import onnx_reap
from onnx_reap.measure.variation import Variation, by_sample

RNG = np.random.default_rng(0)


def variation(*batches: np.ndarray) -> Variation:
    found = Variation()
    for batch in batches:
        found.add(batch)
    return found


def test_entries_vary_about_their_own_means_over_all_batches():
    x = RNG.normal(size=(50, 3, 4)) + 1e4 * RNG.normal(size=(3, 4))
    found = variation(x[:20], x[20:21], x[21:])
    away = np.square(x - x.mean(axis=0))
    assert found.total == pytest.approx(away.sum(), rel=1e-9)
    np.testing.assert_allclose(found.deviations(x), away.sum(axis=(1, 2)), rtol=1e-9)
    assert found.relative(away.sum() / 4) == pytest.approx(0.25, rel=1e-9)


def test_entries_that_are_not_finite_do_not_count():
    x = RNG.normal(size=(30, 5)) + 7
    x[RNG.random(x.shape) < 0.2] = -np.inf
    x[:, 4] = np.nan
    shown = np.where(np.isfinite(x), x, np.nan)[:, :4]
    expected = np.nansum(np.square(shown - np.nanmean(shown, axis=0)))
    assert variation(x[:9], x[9:]).total == pytest.approx(expected, rel=1e-9)


def test_axes_of_uneven_sizes_share_a_mean():
    short, long = RNG.normal(size=(4, 2, 3)), RNG.normal(size=(5, 7, 3))
    offsets = np.array([0, 100, -100])
    short, long = short + offsets, long + offsets
    rows = np.concatenate([short.reshape(-1, 3), long.reshape(-1, 3)])
    away = np.square(rows - rows.mean(axis=0))
    found = variation(short, long)
    assert found.total == pytest.approx(away.sum(), rel=1e-9)
    assert found.deviations(long).sum() == pytest.approx(away[8:].sum(), rel=1e-9)


@pytest.mark.parametrize("samples", [1, 6])
def test_what_does_not_vary_over_samples_varies_about_one_mean_or_from_zero(samples: int):
    x = np.repeat(np.array([[1.0, 3.0]]), samples, axis=0)
    assert variation(x).total == pytest.approx(2 * samples)
    assert variation(np.full((samples, 2), 3.0)).total == pytest.approx(18 * samples)
    zeros = variation(np.zeros((samples, 2)))
    assert zeros.total == 0 and zeros.relative(0.5) == 0.5


def test_rounding_is_no_variation():
    x = np.full((9, 1), 1e3) + RNG.normal(size=(9, 1)) * 1e-5
    assert variation(x).total == pytest.approx(9e6, rel=1e-6)


@pytest.mark.parametrize(
    ("shape", "grows", "fixed", "expected"),
    [
        ((4, 5), {0}, None, (4, 1, 5)),
        ((8, 5), {0}, None, (4, 2, 5)),  # two rows a sample
        ((7, 5), {0}, None, (7, 1, 5)),  # as many as values ask for
        ((0, 5), {0}, None, (0, 1, 5)),
        ((6, 4, 5), {1}, None, (4, 1, 6, 5)),  # samples along the second axis
        ((6, 5), set(), None, (1, 6, 5)),  # one result a run
        ((), set(), None, (1,)),
        ((8, 5), set(), 4, (4, 2, 5)),
        ((), set(), 4, (1,)),
    ],
)
def test_samples_get_an_axis_of_their_own(shape, grows, fixed, expected):
    probe = SimpleNamespace(dynamic={"y": frozenset(grows)})
    x = RNG.normal(size=shape)
    found = by_sample(SimpleNamespace(probe=probe, fixed_batch=fixed), "y", x, 4)
    assert found.shape == expected
    assert np.sort(found.ravel()).tolist() == np.sort(x.ravel()).tolist()


def offset_model(offset: float):
    """Return a regression whose outputs have means that differ by so many times their spread."""
    n = Net({"x": ("N", 6)})
    y = n.gemm(n.node("Relu", n.gemm("x", 6, 32)), 32, 8)
    y = n.node("Add", y, n.constant(offset * np.arange(8, dtype=np.float32)[None]))
    return n.model(n.node("Reshape", y, n.constant(np.array([0, 1, 8]))))


@pytest.mark.parametrize("allocation", ["pro", "local"])
def test_offsets_between_entries_change_no_figure(allocation: str):
    x = RNG.normal(size=(200, 6)).astype(np.float32)
    settings = {"ratio": 0.5, "joint_refit": 0, "allocation": allocation}
    plain, moved = (
        onnx_reap.reap(offset_model(o), x, **settings).report.held_out.output_error
        for o in (0, 100)
    )
    assert [*moved.values()] == pytest.approx([*plain.values()], rel=1e-2)  # float32 beside 100s
    assert max(plain.values()) > 1e-3
