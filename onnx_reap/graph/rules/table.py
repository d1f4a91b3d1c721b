"""All operators of which anything is known, by family."""

from collections.abc import Mapping

from onnx_reap.graph.rules.attention import ATTENTION
from onnx_reap.graph.rules.indexing import INDEXING
from onnx_reap.graph.rules.mixing import MIXING
from onnx_reap.graph.rules.movement import MOVEMENT
from onnx_reap.graph.rules.perchannel import PER_CHANNEL
from onnx_reap.graph.rules.pointwise import POINTWISE
from onnx_reap.graph.rules.recurrent import RECURRENT
from onnx_reap.graph.rules.rule import Rule
from onnx_reap.graph.rules.selection import SELECTION
from onnx_reap.graph.rules.traits import Trait

RULES: dict[str, Rule] = {
    **MIXING,
    **MOVEMENT,
    **SELECTION,
    **POINTWISE,
    **PER_CHANNEL,
    **RECURRENT,
    **ATTENTION,
    **INDEXING,
}

_WITHOUT_RULE: Mapping[str, Trait] = {
    "Bernoulli": Trait.RANDOM,
    "Multinomial": Trait.RANDOM,
    "RandomNormal": Trait.RANDOM,
    "RandomNormalLike": Trait.RANDOM,
    "RandomUniform": Trait.RANDOM,
    "RandomUniformLike": Trait.RANDOM,
    "If": Trait.RUNS_BODIES,
    "Loop": Trait.RUNS_BODIES,
    "Scan": Trait.RUNS_BODIES,
    "Scatter": Trait.INDEXES,
    "Shape": Trait.MEASURES,
    "Size": Trait.MEASURES,
    "Compress": Trait.JUMPS | Trait.COUNTS,
    "DynamicQuantizeLinear": Trait.QUANTISES | Trait.JUMPS,
    "NonMaxSuppression": Trait.JUMPS | Trait.COUNTS,
    "NonZero": Trait.JUMPS | Trait.COUNTS,
    "Unique": Trait.JUMPS | Trait.COUNTS,
}

TRAITS: Mapping[str, Trait] = {
    **{op: rule.traits for op, rule in RULES.items()},
    **_WITHOUT_RULE,
}
