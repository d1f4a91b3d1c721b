"""The curve between measured points."""

from __future__ import annotations

import numpy as np

from onnx_reap.solve.curves import divergence_curve


def curve(errors, points, measured):
    return divergence_curve(*(np.array(v, float) for v in (errors, points, measured)))


def test_one_point_makes_the_divergence_proportional():
    np.testing.assert_allclose(curve([8, 4, 1, 0], [4], [2]), [4, 2, 0.5, 0])


def test_passes_through_all_points_and_follows_a_power_between_them():
    # 2 e^2 through (1, 2) and (4, 32)
    np.testing.assert_allclose(curve([4, 2, 1, 0], [1, 4], [2, 32]), [32, 8, 2, 0])


def test_is_proportional_outside_the_points():
    np.testing.assert_allclose(curve([8, 0.5], [1, 4], [2, 32]), [64, 1])


def test_never_decreases_where_a_measurement_does():
    values = curve([5, 4, 3, 2, 1], [1, 3, 5], [2, 1, 4])
    assert (np.diff(values) <= 1e-12).all()


def test_what_was_not_felt_is_unknown():
    assert divergence_curve(np.array([3.0, 1, 0]), np.array([3.0]), np.array([0.0])) is None
    assert divergence_curve(np.array([3.0, 0, 0]), np.array([0.0]), np.array([1.0])) is None
