"""The rules of all operators that have one, by family."""

from onnx_reap.graph.rules.mixing import MIXING
from onnx_reap.graph.rules.movement import MOVEMENT
from onnx_reap.graph.rules.perchannel import PER_CHANNEL
from onnx_reap.graph.rules.pointwise import POINTWISE
from onnx_reap.graph.rules.recurrent import RECURRENT
from onnx_reap.graph.rules.rule import Rule
from onnx_reap.graph.rules.selection import SELECTION

RULES: dict[str, Rule] = {
    **MIXING,
    **MOVEMENT,
    **SELECTION,
    **POINTWISE,
    **PER_CHANNEL,
    **RECURRENT,
}
