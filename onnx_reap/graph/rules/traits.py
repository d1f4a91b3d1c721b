"""What may be known of an operator, for all that ask.

Every operator has one row, in its family's module, which tells its traits and how its channels are
followed. An operator without a rule for channels keeps them, whatever its traits are.
"""

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
    COUNTS = auto()
    """The result has as many entries as values say."""
    RANDOM = auto()
    """The result is not the same every time."""
    QUANTISES = auto()
    """Real numbers become integers, or these real numbers; it must stay visible."""

    CHOOSES = auto()
    """Every entry of the result is one of the operands' at its place."""
    INDEXES = auto()
    """The second input names places along an axis of the first."""
    INDEXES_DEEP = auto()
    """The last axis of the second input names places along several axes of the first."""

    # What else nodes are.
    WEIGHTED = auto()
    """Layers: the second input is a weight, and the third, if any, a bias."""
    RECURRENT = auto()
    """Layers that multiply their input by a weight, and a state at every step."""
    MEASURES = auto()
    """The result is the size of a tensor, or its sizes."""
    FILLS = auto()
    """A shape is filled with numbers: these are features, though they follow from sizes."""
    RUNS_BODIES = auto()
    """Bodies are run once, or again and again, and what they give is returned."""
    FUSES = auto()
    """Activations that onnxruntime may compute in the layer before."""


NO_TRAITS = Trait(0)


def traits_of(op: str) -> Trait:
    """Return what is known of an operator of ONNX's own; no traits where nothing is."""
    # Imported when it is asked for: rules read graphs, and what reads graphs asks here.
    from onnx_reap.graph.rules.table import TRAITS

    return TRAITS.get(op, NO_TRAITS)


def has_rule(op: str) -> bool:
    """Whether there is a rule for the channels of an operator of ONNX's own."""
    from onnx_reap.graph.rules.table import RULES

    return op in RULES
