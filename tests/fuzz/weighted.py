"""Draws of the operators with weights."""

from __future__ import annotations

from functools import partial

from fuzz.grower import Grower, UnfitError

# Convolutions.


def _window(g: Grower, x: str, *, larger: int = 0) -> dict:
    """Kernel, strides, dilations and padding that fit a tensor's spatial axes."""
    size = g.shape(x)[2:]
    kernel = [g.pick.choice([k for k in (1, 1, 2, 3) if k <= s + larger]) for s in size]
    attributes: dict = {"kernel_shape": kernel}
    if g.chance(0.3):
        attributes["strides"] = [g.pick.choice([1, 2]) for _ in size]
    if g.chance(0.1):
        attributes["dilations"] = [
            2 if 2 * (k - 1) < s else 1 for k, s in zip(kernel, size, strict=True)
        ]
    way = g.pick.choice(["same", "same", "none", "any", "SAME_UPPER", "SAME_LOWER", "VALID"])
    if way == "same":
        attributes["pads"] = [(k - 1) // 2 for k in kernel] * 2
    elif way == "any":
        attributes["pads"] = [g.pick.randrange(min(k, 2)) for k in kernel * 2]
    elif way != "none":
        attributes["auto_pad"] = way
        attributes.pop("dilations", None)
    return attributes


def _image(g: Grower) -> str:
    return g.tensor(lambda v: 3 <= v.ndim <= 5)


def _divisor(g: Grower, *numbers: int) -> int:
    common = [d for d in range(2, min(numbers) + 1) if all(n % d == 0 for n in numbers)]
    if not common:
        raise UnfitError("no common divisor")
    return g.pick.choice(common)


def conv(g: Grower) -> str:
    x = _image(g)
    inputs, outputs, group = g.shape(x)[1], g.pick.randrange(1, 9), 1
    form = g.pick.choice(["dense", "dense", "dense", "depthwise", "grouped"])
    if form == "depthwise":
        group, outputs = inputs, inputs * g.pick.choice([1, 1, 2, 3])
    elif form == "grouped":
        outputs = g.pick.choice([2, 4, 6, 8, 9, 12])
        group = _divisor(g, inputs, outputs)
    window = _window(g, x)
    w = g.weight(outputs, inputs // group, *window["kernel_shape"])
    if g.chance(0.05):
        w = g("Identity", w) if g.chance(0.5) else g("Mul", w, g.positive(1))
    bias = [g.weight(outputs)] if g.chance(0.6) else []
    return g("Conv", x, w, *bias, **({"group": group} if group > 1 else {}), **window)


def conv_transpose(g: Grower) -> str:
    x = _image(g)
    inputs, outputs, group = g.shape(x)[1], g.pick.randrange(1, 7), 1
    form = g.pick.choice(["dense", "dense", "depthwise", "grouped"])
    if form == "depthwise":
        group, outputs = inputs, inputs * g.pick.choice([1, 1, 2])
    elif form == "grouped":
        outputs = g.pick.choice([2, 4, 6, 8])
        group = _divisor(g, inputs, outputs)
    window = _window(g, x, larger=2)
    w = g.weight(inputs, outputs // group, *window["kernel_shape"])
    bias = [g.weight(outputs)] if g.chance(0.6) else []
    if "strides" in window and "auto_pad" not in window and g.chance(0.3):
        window["output_padding"] = [s - 1 for s in window["strides"]]
    return g("ConvTranspose", x, w, *bias, **({"group": group} if group > 1 else {}), **window)


# Matrices.


def gemm(g: Grower) -> str:
    x = g.tensor(lambda v: v.ndim == 2)
    inputs, outputs = g.shape(x)[1], g.pick.randrange(1, 9)
    attributes: dict = {}
    if g.chance(0.05) and not g.open_batch:
        inputs, attributes["transA"] = g.batch, 1
    if g.chance(0.5):
        attributes["transB"] = 1
    w = g.weight(outputs, inputs) if "transB" in attributes else g.weight(inputs, outputs)
    if g.chance(0.2):
        attributes |= {"alpha": 0.5, "beta": g.pick.choice([0.0, 2.0])}
    bias = g.pick.choice([(), (outputs,), (outputs,), (1, outputs), (1,), None])
    bias = (outputs,) if g.opset < 11 else bias  # which was no choice then
    return g("Gemm", x, w, *([] if bias is None else [g.weight(*bias)]), **attributes)


def matmul(g: Grower) -> str:
    x = g.tensor(lambda v: v.ndim >= 2)
    shape, outputs = g.shape(x), g.pick.randrange(1, 9)
    side = g.pick.choice(["right", "right", "right", "right", "left", "stack"])
    if side == "left" and len(shape) > 2:
        return g("MatMul", g.weight(outputs, shape[-2]), x)
    stack = shape[1:-2] if side == "stack" else ()
    y = g("MatMul", x, g.weight(*stack, shape[-1], outputs))
    return g("Add", y, g.weight(outputs)) if g.chance(0.5) else y


def einsum(g: Grower) -> str:
    x = g.tensor(lambda v: 2 <= v.ndim <= 5)
    rank = len(g.shape(x))
    letters = "nabcd"[:rank]
    if g.chance(0.2):
        y = g.weight(g.shape(x)[-1], g.pick.randrange(1, 6))
        return g("Einsum", x, y, equation=f"{letters},{letters[-1]}z->{letters[:-1]}z")
    y = g.tensor(lambda v: v.shape == g.shape(x))
    if rank > 2 and g.chance(0.7):  # a product of matrices, all other axes are a stack's
        other = letters[:-2] + "z" + letters[-1]
        return g("Einsum", x, y, equation=f"{letters},{other}->{letters[:-1]}z")
    out = letters[:-1] if g.chance(0.5) and rank > 2 else letters
    return g("Einsum", x, y, equation=f"{letters},{letters}->{out}")


def attention(g: Grower) -> str:
    """Tokens, heads of queries, keys and values; the usual products, and a projection."""
    x = g.tensor(lambda v: v.ndim == 3)
    _, length, width = g.shape(x)
    heads, depth = g.pick.choice([1, 2, 3]), g.pick.choice([1, 2, 3])
    lead = 0 if g.open_batch or g.chance(0.5) else g.batch

    def split(order: list[int]) -> str:
        y = g("MatMul", x, g.weight(width, heads * depth))
        y = g("Add", y, g.weight(heads * depth)) if g.chance(0.5) else y
        y = g("Reshape", y, g.ints(lead, length, heads, depth))
        return g("Transpose", y, perm=order)

    q, k, v = split([0, 2, 1, 3]), split([0, 2, 3, 1]), split([0, 2, 1, 3])
    scores = g("Mul", g("MatMul", q, k), g.constant(g.rng.uniform(0.3, 0.6, ()).astype("f4")))
    y = g("MatMul", g("Softmax", scores, axis=-1 if g.opset >= 11 else 3), v)
    y = g("Transpose", y, perm=[0, 2, 1, 3])
    y = g("Reshape", y, g.ints(lead, length, heads * depth))
    return g("MatMul", y, g.weight(heads * depth, width))


def _attention(g: Grower) -> str:
    """The operator, whose keys and values may have fewer heads."""
    x = g.tensor(lambda v: v.ndim == 3)
    width, heads = g.shape(x)[2], g.pick.choice([1, 2, 4])
    fewer = g.pick.choice([d for d in (1, 2, 4) if heads % d == 0])
    depth, own = g.pick.choice([1, 2, 3]), g.pick.choice([1, 2])
    sizes = (heads * depth, fewer * depth, fewer * own)
    sides = [g("MatMul", x, g.weight(width, size)) for size in sizes]
    more = {"is_causal": 1} if g.chance(0.3) else {}
    y = g("Attention", *sides, q_num_heads=heads, kv_num_heads=fewer, **more)
    return g("MatMul", y, g.weight(heads * own, width)) if g.chance(0.7) else y


def _rotary(g: Grower) -> str:
    x = g.tensor(lambda v: v.ndim == 3)
    _, length, width = g.shape(x)
    heads = g.pick.choice([1, 2, 3])
    y = g("MatMul", x, g.weight(width, heads * 4))
    batch = g("Gather", g("Shape", x), g.ints(0))
    shape = g("Concat", batch, g.ints(length, 2), axis=0)
    angles = [g("Expand", g.weight(1, length, 2), shape) for _ in range(2)]
    return g("RotaryEmbedding", y, *angles, num_heads=heads)


# Recurrent layers.


def recurrent(g: Grower, op: str, gates: int) -> str:
    """Run along an axis of a sequence; directions end side by side."""
    x = g.tensor(lambda v: v.ndim == 3)
    steps = g("Transpose", x, perm=g.pick.choice([[1, 0, 2], [2, 0, 1]]))
    length, _, inputs = g.shape(steps)
    hidden, both = g.pick.randrange(1, 5), g.chance(0.3)
    ways = 2 if both else 1
    weights = [g.weight(ways, gates * hidden, n) for n in (inputs, hidden)]
    bias = [g.weight(ways, 2 * gates * hidden)] if g.chance(0.6) else []
    direction = "bidirectional" if both else g.pick.choice(["forward", "reverse"])
    more = [*(bias or [""]), "", *_states(g, op, steps, ways, hidden)] if g.chance(0.3) else bias
    attributes = {"hidden_size": hidden, "direction": direction}
    if op == "GRU" and g.chance(0.4):
        attributes["linear_before_reset"] = 1
    y = g(op, steps, *weights, *more, **attributes)
    y = g("Transpose", y, perm=[2, 0, 1, 3])
    lead = 0 if g.open_batch or g.chance(0.5) else g.batch
    return g("Reshape", y, g.ints(lead, length, ways * hidden))


def _states(g: Grower, op: str, steps: str, ways: int, hidden: int) -> list[str]:
    """Initial states, filled for the batch or constant, and peepholes."""
    if g.open_batch or g.chance(0.5):
        batch = g("Gather", g("Shape", steps), g.ints(1), axis=0)
        state = g("ConstantOfShape", g("Concat", g.ints(ways), batch, g.ints(hidden), axis=0))
    else:
        state = g.weight(ways, g.shape(steps)[1], hidden)
    peepholes = [g.weight(ways, 3 * hidden)] if g.chance(0.5) else []
    return [state, state, *peepholes] if op == "LSTM" else [state]


WEIGHTED = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": gemm,
    "MatMul": matmul,
    "Einsum": einsum,
    "Attention": _attention,
    "RotaryEmbedding": _rotary,
    "LSTM": partial(recurrent, op="LSTM", gates=4),
    "GRU": partial(recurrent, op="GRU", gates=3),
    "RNN": partial(recurrent, op="RNN", gates=1),
}
