"""The kinds of what people bring, with a small model for each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import kind_bodies as bodies
import kind_models as models
import kind_networks as networks
from kind_models import Build, typed
from kind_networks import recurrent
from onnx import TensorProto

FLOAT16, BFLOAT16 = TensorProto.FLOAT16, TensorProto.BFLOAT16


@dataclass(frozen=True)
class Kind:
    """What people bring, and a small model of it."""

    name: str
    operators: str
    build: Build
    opsets: tuple[int, ...] = (17,)
    quantised: str = ""  # The form that onnxruntime's quantiser brings the model into


SHARED, WEIGHTS = "shared constants", "shared weights"
FUNCTIONS, OWN = "functions of ONNX", "functions of the model"
OPTIMIZER = "onnxruntime's optimizer"
PLACES, VECTOR = "places that data tell", "vector times matrix"
QUANTISED = "quantised"
BODIES, RECURRENT = "bodies", "recurrent"
INPUTS, TYPES = "inputs", "types"

layer_norm = partial(models.layer_norm, op="LayerNormalization")
rms_norm = partial(models.layer_norm, op="RMSNormalization")
rms_norm_of_heads = partial(models.of_heads, op="RMSNormalization")

KINDS = (
    Kind(SHARED, "InstanceNormalization", models.instance_norm),
    Kind(SHARED, "BatchNormalization", models.batch_norm),
    Kind(SHARED, "Add", models.vector),
    Kind(SHARED, "PRelu", models.slope),
    Kind(WEIGHTS, "Conv, MatMul on two inputs", models.siamese),
    Kind(WEIGHTS, "Conv twice in a row", models.again),
    Kind(FUNCTIONS, "GroupNormalization", models.group_norm, (21, 25)),
    Kind(FUNCTIONS, "MeanVarianceNormalization", models.mean_variance, (13, 21)),
    Kind(FUNCTIONS, "LayerNormalization", layer_norm, (17, 25)),
    Kind(FUNCTIONS, "RMSNormalization", rms_norm, (23, 25)),
    Kind(
        FUNCTIONS,
        "RMSNormalization of heads",
        partial(models.of_heads, op="RMSNormalization"),
        (23, 25),
    ),
    Kind(FUNCTIONS, "RotaryEmbedding", partial(models.of_heads, op="RotaryEmbedding"), (23, 25)),
    Kind(FUNCTIONS, "Attention", partial(models.of_heads, op="Attention"), (23, 25)),
    Kind(FUNCTIONS, "Gelu", models.gelu, (20, 25)),
    Kind(FUNCTIONS, "Swish", models.swish, (24, 25)),
    Kind(OWN, "Block of Conv, Relu", models.function, (17, 21)),
    Kind(OPTIMIZER, "FusedConv", models.fused_conv),
    Kind(OPTIMIZER, "FusedGemm", models.fused_gemm),
    Kind(OPTIMIZER, "FusedMatMul", models.fused_matmul),
    Kind(OPTIMIZER, "BiasGelu", models.bias_gelu),
    Kind(OPTIMIZER, "SkipLayerNormalization", models.skip_layer_norm),
    Kind(OPTIMIZER, "MultiHeadAttention", partial(models.of_heads, op="MultiHeadAttention")),
    Kind(OPTIMIZER, "Attention", models.fused_attention),
    Kind(OPTIMIZER, "a stack of these", models.encoder),
    Kind(PLACES, "Gather rows", networks.rows),
    Kind(PLACES, "Gather, ScatterElements", networks.scatter_elements, (18,)),
    Kind(PLACES, "GatherND, ScatterND", networks.scatter_nd, (18,)),
    Kind(PLACES, "TopK, GatherElements", networks.best_tokens),
    Kind(VECTOR, "MatMul", networks.vector),
    Kind(QUANTISED, "QDQ per tensor", models.plain, quantised="QDQ"),
    Kind(QUANTISED, "QDQ per channel", models.plain, quantised="QDQ per channel"),
    Kind(QUANTISED, "QLinearConv, QGemm", models.plain, quantised="QOperator"),
    Kind(QUANTISED, "MatMulInteger", networks.deep, quantised="dynamic"),
    Kind(BODIES, "If", bodies.branch),
    Kind(BODIES, "Loop", bodies.loop),
    Kind(BODIES, "Scan", bodies.scan),
    Kind(RECURRENT, "LSTM", partial(recurrent, op="LSTM")),
    Kind(RECURRENT, "GRU", partial(recurrent, op="GRU")),
    Kind(RECURRENT, "RNN", partial(recurrent, op="RNN")),
    Kind(RECURRENT, "LSTM, both directions, peepholes", partial(recurrent, op="LSTM", both=True)),
    Kind(RECURRENT, "GRU, both directions", partial(recurrent, op="GRU", both=True)),
    Kind(RECURRENT, "GRU, state of zeros", partial(recurrent, op="GRU", state="zeros")),
    Kind(RECURRENT, "GRU, state of a layer", partial(recurrent, op="GRU", state="layer")),
    Kind(RECURRENT, "GRU, state an input", partial(recurrent, op="GRU", state="input")),
    Kind(INPUTS, "texts: LabelEncoder, Gather", networks.letters, (15,)),
    Kind(INPUTS, "ids: Gather", networks.embedding),
    Kind(TYPES, "float16", partial(typed, build=models.plain, kind=FLOAT16)),
    Kind(TYPES, "float16, fused", partial(typed, build=models.encoder, kind=FLOAT16)),
    Kind(TYPES, "bfloat16", partial(typed, build=models.plain, kind=BFLOAT16), (22,)),
    Kind(TYPES, "scalars", models.scalars),
)
