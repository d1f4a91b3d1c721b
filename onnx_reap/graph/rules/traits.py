"""What is known of ONNX's operators: one row an operator, for all that ask.

Operators whose channels can be followed also have a rule, which says how; that of pointwise
operators, poolings and reductions derives from their traits. An operator that has no rule keeps
its channels, whatever its traits are.
"""

from collections.abc import Mapping
from enum import Flag, auto


class Trait(Flag):
    """What an operator does."""

    # How channels pass.
    POINTWISE = auto()
    """Every entry is a function of the entries at its place."""
    BROADCASTS = auto()
    """Several operands meet under broadcasting."""
    POOLS = auto()
    """Windows over space, or all of it, become one entry."""
    REDUCES = auto()
    """All entries along some axes become one."""
    MOVES = auto()
    """Data is only moved, so that the node can be executed on labels themselves."""
    OWN_CHANNEL = auto()
    """Every channel of the result is a function of its own channel and its parameters alone."""
    PICKS = auto()
    """Channels stay wholes; along other axes the same happens to all."""
    ALONG_AXIS = auto()
    """Parts are joined, taken or picked along the axis that an attribute names."""
    REGROUPS = auto()
    """Channels may be joined with positions, or taken apart."""

    # What becomes of values.
    SAME_ENTRIES = auto()
    """The result has the entries of the first input, perhaps in another shape and order."""
    SAME_ORDER = auto()
    """The result has the entries of the first input in their order, and no more axes."""
    SELECTS = auto()
    """Every entry of a result is one of the first input."""
    LINEAR = auto()
    """Every channel of the first input is summed over places with the same weights."""
    AVERAGES = auto()
    """The result is the mean over places, the same number where all entries are."""
    HOMOGENEOUS = auto()
    """f(a x) = a f(x) for a > 0."""
    KEEPS_CONSTANTS = auto()
    """Constants become constants that depend on nothing else, neither data nor sizes."""
    KEEPS_INNER_CONSTANTS = auto()
    """Constants may become constants, but for borders."""
    ADDS = auto()
    """Operands are added."""
    SUBTRACTS = auto()
    """The second operand is subtracted from the first."""
    SCALES = auto()
    """The first operand is multiplied or divided, perhaps also shifted."""
    SATURATES = auto()
    """Results lie within 1 of 0, and hardly change where inputs are large."""
    JUMPS = auto()
    """A difference of rounding may become another result."""
    RANDOM = auto()
    """The result is not the same every time."""
    QUANTISES = auto()
    """Real numbers become integers, or these real numbers; it must stay visible."""

    # What else nodes are.
    WEIGHTED = auto()
    """Layers: the second input is a weight, and the third, if any, a bias."""
    RECURRENT = auto()
    """Layers that multiply their input by a weight, and a state at every step."""
    MEASURES = auto()
    """The result is the size of a tensor, or its sizes."""
    FILLS = auto()
    """A shape is filled with numbers: these are features, though they follow from sizes."""
    FUSES = auto()
    """Activations that onnxruntime may compute in the layer before."""


NO_TRAITS = Trait(0)

_MAP = Trait.POINTWISE | Trait.OWN_CHANNEL
_CARRYING_MAP = _MAP | Trait.KEEPS_CONSTANTS
_BINARY = _MAP | Trait.BROADCASTS
_CARRYING_BINARY = _BINARY | Trait.KEEPS_CONSTANTS
_COMPARISON = _BINARY | Trait.JUMPS
_POOL = Trait.POOLS | Trait.OWN_CHANNEL
_REDUCTION = Trait.REDUCES | Trait.OWN_CHANNEL
_LAYER = Trait.WEIGHTED | Trait.KEEPS_CONSTANTS
_RESHAPING = Trait.MOVES | Trait.SAME_ENTRIES | Trait.KEEPS_CONSTANTS

TRAITS: Mapping[str, Trait] = {
    # Functions of one tensor's entries.
    "Abs": _CARRYING_MAP | Trait.HOMOGENEOUS,
    "Acos": _MAP,
    "Acosh": _MAP,
    "Asin": _MAP,
    "Asinh": _MAP,
    "Atan": _MAP,
    "Atanh": _MAP,
    "BitwiseNot": _MAP,
    "Ceil": _MAP | Trait.JUMPS,
    "Celu": _CARRYING_MAP,
    "Clip": _CARRYING_MAP | Trait.FUSES,
    "Cos": _MAP,
    "Cosh": _MAP,
    "Dropout": Trait.POINTWISE | Trait.KEEPS_CONSTANTS,
    "Elu": _CARRYING_MAP,
    "Erf": _CARRYING_MAP,
    "Exp": _CARRYING_MAP,
    "Floor": _MAP | Trait.JUMPS,
    "Gelu": _CARRYING_MAP,
    "HardSigmoid": _CARRYING_MAP | Trait.SATURATES | Trait.FUSES,
    "HardSwish": _CARRYING_MAP,
    "IsInf": _MAP | Trait.JUMPS,
    "IsNaN": _MAP | Trait.JUMPS,
    "LeakyRelu": _CARRYING_MAP | Trait.HOMOGENEOUS | Trait.FUSES,
    "Log": _CARRYING_MAP,
    "Mish": _CARRYING_MAP,
    "Neg": _CARRYING_MAP,
    "Not": _MAP,
    "PRelu": _CARRYING_MAP | Trait.HOMOGENEOUS,
    "Reciprocal": _CARRYING_MAP,
    "Relu": _CARRYING_MAP | Trait.HOMOGENEOUS | Trait.FUSES,
    "Round": _MAP | Trait.JUMPS,
    "Selu": _CARRYING_MAP,
    "Shrink": _MAP,
    "Sigmoid": _CARRYING_MAP | Trait.SATURATES | Trait.FUSES,
    "Sign": _MAP | Trait.JUMPS,
    "Sin": _MAP,
    "Sinh": _MAP,
    "Softplus": _CARRYING_MAP,
    "Softsign": _MAP,
    "Sqrt": _CARRYING_MAP,
    "Swish": _CARRYING_MAP,
    "Tan": _MAP,
    "Tanh": _CARRYING_MAP | Trait.SATURATES | Trait.FUSES,
    "ThresholdedRelu": _CARRYING_MAP,
    # Functions of several tensors' entries.
    "Add": _CARRYING_BINARY | Trait.ADDS,
    "And": _BINARY,
    "BitwiseAnd": _BINARY,
    "BitwiseOr": _BINARY,
    "BitwiseXor": _BINARY,
    "Div": _CARRYING_BINARY | Trait.SCALES,
    "Equal": _COMPARISON,
    "Greater": _COMPARISON,
    "GreaterOrEqual": _COMPARISON,
    "Less": _COMPARISON,
    "LessOrEqual": _COMPARISON,
    "Max": _CARRYING_BINARY,
    "Mean": _BINARY,
    "Min": _CARRYING_BINARY,
    "Mod": _BINARY | Trait.JUMPS,
    "Mul": _CARRYING_BINARY | Trait.SCALES,
    "Or": _BINARY,
    "Pow": _CARRYING_BINARY,
    "Sub": _CARRYING_BINARY | Trait.SUBTRACTS,
    "Sum": _CARRYING_BINARY | Trait.ADDS,
    "Where": _BINARY,
    "Xor": _BINARY,
    # Poolings and reductions.
    "AveragePool": _POOL | Trait.HOMOGENEOUS | Trait.LINEAR | Trait.KEEPS_INNER_CONSTANTS,
    "GlobalAveragePool": _POOL | Trait.LINEAR | Trait.AVERAGES | Trait.KEEPS_CONSTANTS,
    "GlobalLpPool": _POOL,
    "GlobalMaxPool": _POOL | Trait.HOMOGENEOUS | Trait.KEEPS_CONSTANTS,
    "LpPool": _POOL,
    "MaxPool": _POOL | Trait.HOMOGENEOUS | Trait.SELECTS | Trait.KEEPS_INNER_CONSTANTS,
    "ReduceL1": _REDUCTION,
    "ReduceL2": _REDUCTION,
    "ReduceLogSum": _REDUCTION,
    "ReduceLogSumExp": _REDUCTION,
    "ReduceMax": _REDUCTION | Trait.HOMOGENEOUS | Trait.SELECTS | Trait.KEEPS_CONSTANTS,
    "ReduceMean": _REDUCTION | Trait.LINEAR | Trait.AVERAGES | Trait.KEEPS_CONSTANTS,
    "ReduceMin": _REDUCTION | Trait.HOMOGENEOUS | Trait.SELECTS,
    "ReduceProd": _REDUCTION,
    "ReduceSum": _REDUCTION | Trait.HOMOGENEOUS | Trait.LINEAR,
    "ReduceSumSquare": _REDUCTION,
    # Other functions along axes.
    "ArgMax": Trait.OWN_CHANNEL | Trait.JUMPS,
    "ArgMin": Trait.OWN_CHANNEL | Trait.JUMPS,
    "BatchNormalization": Trait.OWN_CHANNEL | Trait.KEEPS_CONSTANTS | Trait.SCALES,
    "CumSum": Trait.OWN_CHANNEL,
    "Hardmax": Trait.OWN_CHANNEL | Trait.JUMPS,
    "InstanceNormalization": Trait.OWN_CHANNEL | Trait.KEEPS_INNER_CONSTANTS,
    "LayerNormalization": Trait.OWN_CHANNEL | Trait.KEEPS_CONSTANTS,
    "LogSoftmax": Trait.OWN_CHANNEL,
    "LpNormalization": Trait.OWN_CHANNEL,
    "LRN": NO_TRAITS,
    "Pad": Trait.OWN_CHANNEL | Trait.KEEPS_INNER_CONSTANTS,
    "Resize": Trait.OWN_CHANNEL | Trait.LINEAR | Trait.KEEPS_INNER_CONSTANTS,
    "Softmax": Trait.OWN_CHANNEL | Trait.SATURATES,
    "Upsample": Trait.OWN_CHANNEL,
    # Movement.
    "Cast": Trait.MOVES | Trait.SAME_ORDER | Trait.KEEPS_CONSTANTS,
    "CastLike": Trait.MOVES,
    "Concat": Trait.MOVES | Trait.PICKS | Trait.ALONG_AXIS,
    "DepthToSpace": Trait.MOVES | Trait.REGROUPS,
    "Expand": Trait.MOVES | Trait.FILLS,
    "Flatten": _RESHAPING | Trait.REGROUPS | Trait.SAME_ORDER,
    "Gather": Trait.MOVES | Trait.PICKS | Trait.ALONG_AXIS | Trait.SELECTS,
    "Identity": _RESHAPING | Trait.SAME_ORDER,
    "Reshape": _RESHAPING | Trait.REGROUPS | Trait.SAME_ORDER,
    "Slice": Trait.MOVES | Trait.PICKS | Trait.SELECTS,
    "SpaceToDepth": Trait.MOVES | Trait.REGROUPS,
    "Split": Trait.MOVES | Trait.PICKS | Trait.ALONG_AXIS | Trait.SELECTS,
    "Squeeze": _RESHAPING | Trait.PICKS | Trait.SAME_ORDER,
    "Tile": Trait.MOVES,
    "Transpose": _RESHAPING | Trait.PICKS,
    "Unsqueeze": _RESHAPING | Trait.PICKS,
    # Layers.
    "Conv": _LAYER,
    "ConvTranspose": Trait.WEIGHTED,
    "Einsum": NO_TRAITS,
    "Gemm": _LAYER,
    "GRU": Trait.RECURRENT,
    "LSTM": Trait.RECURRENT,
    "MatMul": _LAYER,
    "RNN": Trait.RECURRENT,
    # Numbers that come from elsewhere.
    "Bernoulli": Trait.RANDOM,
    "ConstantOfShape": Trait.FILLS,
    "Multinomial": Trait.RANDOM,
    "RandomNormal": Trait.RANDOM,
    "RandomNormalLike": Trait.RANDOM,
    "RandomUniform": Trait.RANDOM,
    "RandomUniformLike": Trait.RANDOM,
    "Shape": Trait.MEASURES,
    "Size": Trait.MEASURES,
    # Operators without a rule.
    "Compress": Trait.JUMPS,
    "DequantizeLinear": Trait.QUANTISES,
    "DynamicQuantizeLinear": Trait.QUANTISES | Trait.JUMPS,
    "NonMaxSuppression": Trait.JUMPS,
    "NonZero": Trait.JUMPS,
    "QuantizeLinear": Trait.QUANTISES | Trait.JUMPS,
    "TopK": Trait.JUMPS,
    "Unique": Trait.JUMPS,
}


def traits_of(op: str) -> Trait:
    """Return what is known of an operator of ONNX's own; no traits where nothing is."""
    return TRAITS.get(op, NO_TRAITS)


def operators(trait: Trait) -> tuple[str, ...]:
    """Return the operators that have a trait, in the order of the table."""
    return tuple(op for op, traits in TRAITS.items() if trait in traits)
