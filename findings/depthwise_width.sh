#!/usr/bin/env bash
# onnxruntime runs depthwise convolutions of 26 channels several times slower than ones of 32.
#
# One would guess: fewer channels, less time, or at worst as much, since 26 is padded to 32.
# What happens: convolutions run in a blocked layout where channels are a multiple of 4. All others
# take a generic path, which for depthwise layers costs more than twice the time, here five to six
# times; so 28 channels are about as fast as 32, and 26 and 30 are far slower.
#
# Versions: onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6; CPU, x86-64, one thread.
# Output seen (eight layers of 3x3 on 28x28 maps, processor time against 32 channels, median of
# 100 runs by turns):
#     24 channels: 1.0
#     26 channels: 5.5
#     28 channels: 1.0
#     30 channels: 6.3
#     32 channels: 1.0
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

WIDTHS, LAYERS, RUNS = (24, 26, 28, 30, 32), 8, 100


def run_of(channels):
    """Return a function that runs a chain of depthwise layers."""
    shape = f"float[1, {channels}, 28, 28]"
    convolution = f"Conv<group = {channels}, kernel_shape = [3, 3], pads = [1, 1, 1, 1]>"
    chain = "\n".join(f"x{i + 1} = {convolution}(x{i}, w)" for i in range(LAYERS))
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]>'
        f"depthwise ({shape} x0) => ({shape} x{LAYERS}) {{ {chain} }}"
    )
    weight = np.full((channels, 1, 3, 3), 0.1, np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {"x0": np.ones((1, channels, 28, 28), np.float32)}
    return lambda: session.run(None, feed)


runs = {channels: run_of(channels) for channels in WIDTHS}
seconds = {channels: [] for channels in WIDTHS}
for _ in range(RUNS):
    for channels, run in runs.items():
        start = time.process_time()
        run()
        seconds[channels].append(time.process_time() - start)
ratios = {c: np.median(np.divide(seconds[c], seconds[32])) for c in WIDTHS}
for channels, ratio in ratios.items():
    print(f"{channels} channels: {ratio:.1f}")
assert min(ratios[26], ratios[30]) > 2, "26 or 30 channels are not clearly slower than 32"
assert max(ratios[24], ratios[28]) < 1.5, "24 or 28 channels are slower than 32 too"
PYTHON
