#!/usr/bin/env bash
# onnxruntime runs threads on cores that its process may not use.
#
# One would guess: a process that is bound to one core (taskset, sched_setaffinity) has all its
# threads there, since threads inherit the cores of the one that makes them.
# What happens: with the default number of threads, a session makes one for each core of the machine
# and pins it to that core, also where the process was bound to another. With
# `intra_op_num_threads` set, to any number, threads are pinned nowhere and stay where they may run.
# What follows: of two processes on a core each, every session of the first also computes on the
# core of the second. Set the number of threads wherever cores are divided by affinity.
#
# Versions: onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6; Linux, two cores or more.
# Output seen (threads that may run on other cores than the one the process is bound to):
#     default: 1 of 2 cores
#     intra_op_num_threads = 2: 0
source "$(dirname "$0")/environment.bash" numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
venv/bin/python - <<'PYTHON'
import os

cores = sorted(os.sched_getaffinity(0))
assert len(cores) > 1, "needs two cores"
os.sched_setaffinity(0, cores[:1])  # before any thread is made

import onnxruntime
from onnx import parser

model = parser.parse_model(
    '<ir_version: 8, opset_import: ["": 17]> relu (float[4] x) => (float[4] y) { y = Relu(x) }'
)


def threads_elsewhere(count):
    options = onnxruntime.SessionOptions()
    if count:
        options.intra_op_num_threads = count
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    threads = [int(name) for name in os.listdir("/proc/self/task")]
    elsewhere = sum(not os.sched_getaffinity(each) <= {cores[0]} for each in threads)
    del session
    return elsewhere


default, explicit = threads_elsewhere(0), threads_elsewhere(2)
print(f"default: {default} of {len(cores)} cores")
print(f"intra_op_num_threads = 2: {explicit}")
assert default > 0 and explicit == 0
PYTHON
