#!/usr/bin/env bash
# onnxruntime's highest optimization level, its default, makes filters of single channels slower.
#
# One would guess: a higher level of optimization, which changes no result, is at worst as fast.
# What happens: at ORT_ENABLE_ALL convolutions with constant weights are computed in a layout of
# blocks of 8 or 16 channels. The nine filters of a 3x3 patch, applied to maps one by one, give 9
# channels, so blocks of 16 are computed and written, then reordered for the next operator, which
# knows no blocks. ORT_ENABLE_EXTENDED, one level below, leaves all of that out.
# What follows: models that gather patches or apply a fixed bank of filters (wavelets, edges, windows
# of a signal) to each channel are worth a run at the lower level.
#
# Versions: onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6; CPU, x86-64, one thread.
# Output seen (9 filters of 3x3 on 70 maps of 56x56, multiplied by a vector each; processor time
# against the lower level, median of 60 runs by turns):
#     ORT_ENABLE_EXTENDED: reorders 0 times, time 1.0
#     ORT_ENABLE_ALL: reorders 1 times, time 1.8
source "$(dirname "$0")/environment.bash" \
    numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
venv/bin/python - <<'PYTHON'
import time

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper, parser

MAPS, SIZE, RUNS = 70, 56, 60
LEVELS = ("ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")


def run_of(level):
    """Return a function that runs the filters, and how often their results are reordered."""
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]>'
        f"filters (float[{MAPS}, 1, {SIZE}, {SIZE}] maps, float[{MAPS}, {SIZE * SIZE}, 1] weights)"
        f" => (float[{MAPS}, 9, 1] sums) {{"
        f"  found = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(maps, filters)"
        f"  flat = Reshape(found, shape)"
        f"  sums = MatMul(flat, weights)"
        f"}}"
    )
    bank = np.eye(9, dtype=np.float32).reshape(9, 1, 3, 3)
    for name, values in (("filters", bank), ("shape", np.array([MAPS, 9, SIZE * SIZE]))):
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.optimized_model_filepath = f"{level}.onnx"
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    reorders = sum(n.op_type == "ReorderOutput" for n in onnx.load(f"{level}.onnx").graph.node)
    rng = np.random.default_rng(0)
    feed = {
        "maps": rng.standard_normal((MAPS, 1, SIZE, SIZE), np.float32),
        "weights": rng.standard_normal((MAPS, SIZE * SIZE, 1), np.float32),
    }
    return reorders, lambda: session.run(None, feed)


runs = {level: run_of(level) for level in LEVELS}
low, high = (run()[0] for _, run in runs.values())
assert np.allclose(low, high, atol=1e-3), "the levels give different results"
seconds = {level: [] for level in LEVELS}
for _ in range(RUNS):
    for level, (_, run) in runs.items():
        start = time.process_time()
        run()
        seconds[level].append(time.process_time() - start)
ratios = {level: np.median(np.divide(seconds[level], seconds[LEVELS[0]])) for level in LEVELS}
for level, (reorders, _) in runs.items():
    print(f"{level}: reorders {reorders} times, time {ratios[level]:.1f}")
assert [reorders > 0 for reorders, _ in runs.values()] == [False, True], "layouts are others"
assert ratios["ORT_ENABLE_ALL"] > 1.25, "the highest level is about as fast"
PYTHON
