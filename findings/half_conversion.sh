#!/usr/bin/env bash
# onnxconverter-common clips weights to 10000 when it converts a model to float16.
#
# One would guess: float16 holds numbers up to 65504, so 30000 stays what it is; the two functions
# `convert_float_to_float16` of onnxconverter-common and of onnxruntime.transformers do the same.
# What happens: in onnxconverter-common all constants beyond 1e4 become 1e4 (`max_finite_val`), with
# a warning. onnxruntime's own copy of the function clips at 65504. Constants that stand
# for infinity change, such as masks of attention, and so do large scales.
#
# Versions: onnxconverter-common 1.16.0, onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6.
# Output seen (constants 30000, -20000 and 100):
#     onnxconverter_common.float16: [10000.0, -10000.0, 100.0]
#     onnxruntime.transformers.float16: [30000.0, -20000.0, 100.0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0 onnxconverter-common==1.16.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import warnings

import numpy as np
from onnx import numpy_helper, parser
from onnxconverter_common import float16 as common
from onnxruntime.transformers import float16 as transformers

warnings.simplefilter("ignore")
WEIGHTS = np.array([30000, -20000, 100], np.float32)


def converted(module):
    """Return a model's weights after its conversion to float16."""
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]>'
        "scale (float[n, 3] x) => (float[n, 3] y) { y = Mul(x, w) }"
    )
    model.graph.initializer.append(numpy_helper.from_array(WEIGHTS, "w"))
    weights = module.convert_float_to_float16(model).graph.initializer[0]
    return numpy_helper.to_array(weights).tolist()


clipped, kept = converted(common), converted(transformers)
print(f"onnxconverter_common.float16: {clipped}")
print(f"onnxruntime.transformers.float16: {kept}")
assert clipped == [10000, -10000, 100], "onnxconverter-common no longer clips at 1e4"
assert kept == [30000, -20000, 100], "onnxruntime.transformers clips too"
PYTHON
