"""Sessions and BLAS take as many threads as the process has cores, or as are asked for."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from small_models import chain, images
from threadpoolctl import threadpool_info, threadpool_limits

import onnx_reap
from onnx_reap.errors import UsageError
from onnx_reap.onnxio import session as sessions
from onnx_reap.onnxio import threads
from onnx_reap.onnxio.providers import execution_providers
from onnx_reap.prune import conclude


def in_blas() -> int:
    return max(each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas")


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(threads, "cpu_count", lambda: 3)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    return 3


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """List the threads of sessions and of BLAS while the model is checked."""
    found = []
    whole = sessions.in_session
    monkeypatch.setattr(
        sessions, "in_session", lambda *a: found.append(count := whole(*a)) or count
    )
    check = conclude.check_file
    monkeypatch.setattr(conclude, "check_file", lambda *a: found.append(in_blas()) or check(*a))
    return found


def test_sessions_divide_the_cores(cores: int):
    assert [threads.in_session(None, at_once) for at_once in (1, 2, 5)] == [3, 1, 1]
    assert [threads.in_session(8, at_once) for at_once in (1, 2, 3)] == [8, 4, 2]


def test_where_all_cores_may_be_used_onnxruntime_pins_its_threads(monkeypatch):
    monkeypatch.setattr(threads, "cpu_count", lambda: os.cpu_count())
    assert threads.in_session(None) == 0
    assert threads.in_session(os.cpu_count() + 1) == os.cpu_count() + 1


def test_providers_hand_them_on():
    assert execution_providers("cpu").threads is None
    assert execution_providers("cpu", threads=3).threads == 3


def test_blas_takes_no_more_than_the_cores(cores: int):
    with threadpool_limits(5, user_api="blas"):
        with threads.blas(None):
            assert in_blas() == 3
        with threads.blas(4):
            assert in_blas() == 4
        assert in_blas() == 5
    with threadpool_limits(1, user_api="blas"), threads.blas(None):
        assert in_blas() == 1, "what the user said, by OPENBLAS_NUM_THREADS for instance"


@pytest.mark.parametrize("repairs", [0, 1])
def test_a_run_keeps_to_what_is_asked_for(counted: list[int], repairs: int):
    before = in_blas()
    settings = {"target_macs": 0.6, "joint_refit": repairs, "tune": 0}
    onnx_reap.reap(chain(), images(40), threads=1, **settings)
    assert set(counted) == {1}
    assert in_blas() == before


def test_the_number_changes_nothing_but_the_time():
    settings = {"target_macs": 0.6, "joint_refit": 1, "tune": 1}
    one, two = (onnx_reap.reap(chain(), images(40), threads=n, **settings) for n in (1, 2))
    assert one.plan.groups == two.plan.groups
    for a, b in zip(one.model.graph.initializer, two.model.graph.initializer, strict=True):
        a, b = onnx.numpy_helper.to_array(a), onnx.numpy_helper.to_array(b)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [0, -1, 1.5, "two", True])
def test_numbers_of_threads_are_whole(count):
    with pytest.raises(UsageError, match="--threads"):
        onnx_reap.reap(chain(), images(40), threads=count)
