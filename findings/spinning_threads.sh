#!/usr/bin/env bash
# Threads of onnxruntime keep a core busy for tens of milliseconds after a run has returned.
#
# One would guess: a session that has returned its outputs takes no processor time; waiting threads
# spin for some microseconds at most.
# What happens: every thread of the session's pool but the caller's spins for tens of milliseconds
# before it sleeps. Whatever the program does next, such as NumPy's matrix products with threads of
# their own, shares the cores with them. `session.intra_op.allow_spinning` set to "0" stops it.
#
# Versions: onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6; CPU, two threads.
# Output seen (processor time over wall time while the program sleeps for 20 ms after a run, median
# of 30):
#     allow_spinning 1 (the default): 1.00
#     allow_spinning 0: 0.00
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import time

import numpy as np
import onnxruntime
from onnx import numpy_helper, parser

model = parser.parse_model(
    '<ir_version: 8, opset_import: ["": 17]>'
    "convolution (float[1, 128, 28, 28] x) => (float[1, 128, 28, 28] y)"
    "{ y = Conv<pads = [1, 1, 1, 1]>(x, w) }"
)
weight = np.full((128, 128, 3, 3), 0.1, np.float32)
model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
feed = {"x": np.ones((1, 128, 28, 28), np.float32)}


def busy_while_asleep(allow_spinning):
    """Return how many cores the process takes while it sleeps after a run."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.add_session_config_entry("session.intra_op.allow_spinning", allow_spinning)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    shares = []
    for _ in range(30):
        session.run(None, feed)
        wall, processor = time.perf_counter(), time.process_time()
        time.sleep(0.02)
        shares.append((time.process_time() - processor) / (time.perf_counter() - wall))
    return float(np.median(shares))


spinning, waiting = busy_while_asleep("1"), busy_while_asleep("0")
print(f"allow_spinning 1 (the default): {spinning:.2f}")
print(f"allow_spinning 0: {waiting:.2f}")
assert spinning > 0.4, "threads no longer spin for long"
assert waiting < 0.1, "threads spin although they may not"
PYTHON
