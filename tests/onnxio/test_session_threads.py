"""A session's threads stay on the cores that the process may use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PINNED = """
import os, sys

own = {min(os.sched_getaffinity(0))}
os.sched_setaffinity(0, own)  # before any thread is made

import onnx
from onnx_reap.onnxio.session import session

active = session(onnx.load(sys.argv[1]), ["CPUExecutionProvider"])
for task in os.listdir("/proc/self/task"):
    assert os.sched_getaffinity(int(task)) == own, os.sched_getaffinity(int(task))
"""
MODEL = Path(__file__).resolve().parents[2] / "models" / "fashion_resnet.onnx"


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs Linux and two cores",
)
def test_a_process_that_is_bound_to_a_core_stays_on_it():
    subprocess.run([sys.executable, "-c", PINNED, str(MODEL)], check=True)
