"""Gradients of operators with several operands, repeated along axes where they have size one."""

from collections.abc import Mapping

import numpy as np

from onnx_reap.measure.autodiff.gradient import EVERY, Gradient, Step
from onnx_reap.measure.autodiff.tape import Value


def div(at: Step) -> Value:
    """Gradient of a Div."""
    quotient = at.dy / at.input(1)
    return at.folded(-(quotient * at.y) if at.place else quotient)


def power(at: Step) -> Value:
    """Gradient of a Pow with constant exponents."""
    exponents = at.tape.constants[at.node.input[1]].astype(np.float32)
    square = (exponents == 2).all()
    less = at.x if square else at.x.op("Pow", at.tape.floats(exponents - 1))
    return at.folded(at.dy * at.tape.floats(exponents) * less)


def extreme(at: Step) -> Value:
    """Gradient of a Max or Min of two; none where they are equal, as for a Relu."""
    own, other = at.input(at.place), at.input(1 - at.place)
    chosen = own > other if at.node.op_type == "Max" else own < other
    return at.folded(at.dy * chosen.floats())


def where(at: Step) -> Value:
    """Gradient of a Where towards what it chooses from."""
    chosen = at.x if at.place == 1 else at.x.op("Not")
    return at.folded(at.dy * chosen.floats())


ADDED = Gradient(lambda at: at.folded(at.dy), EVERY)
EXTREME = Gradient(extreme, EVERY, fits=lambda n, *_: len(n.input) == len(set(n.input)) == 2)

ARITHMETIC: Mapping[str, Gradient] = {
    "Add": ADDED,
    "Div": Gradient(div, EVERY),
    "Expand": Gradient(lambda at: at.folded(at.dy)),
    "Max": EXTREME,
    "Mean": Gradient(lambda at: at.folded(at.dy / len(at.node.input)), EVERY),
    "Min": EXTREME,
    "Mul": Gradient(lambda at: at.folded(at.dy * at.input(1 - at.place)), EVERY),
    # Exponents are lowered by one, which at zero they can't.
    "Pow": Gradient(power, constant=(1,), fits=lambda n, known, _: bool(known[n.input[1]].all())),
    "Sub": Gradient(lambda at: at.folded(-at.dy if at.place else at.dy), EVERY),
    "Sum": ADDED,
    "Where": Gradient(where, frozenset({1, 2})),
}
