"""The inputs of a model: what must be fed, and whether the model normalises it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

import onnx

from onnx_reap.data import InputSpec
from onnx_reap.errors import ReapError, UsageError
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.rules.traits import Trait, traits_of
from onnx_reap.onnxio.dtypes import to_numpy

LARGEST_INPUT = 2**31
"""Bytes of one input in one run."""


def model_inputs(
    proto: onnx.ModelProto, shapes: Mapping[str, Sequence[int]] | None = None
) -> list[InputSpec]:
    """Describe the inputs that must be fed, dynamic dimensions filled in from `shapes`.

    The first axis stays dynamic if the model leaves it open: whether it is that of a batch, running
    the model tells. See `with_lookups` for what inputs are looked up in.

    Raises
    ------
    UsageError
        If `shapes` names an unknown input or contradicts the model.
    """
    initializers = {tensor.name for tensor in proto.graph.initializer}
    specs = []
    for value in proto.graph.input:
        if value.name in initializers:
            continue
        if not value.type.HasField("tensor_type"):
            raise ReapError(f"input {value.name}: not a tensor", expected="tensor inputs only")
        tensor = value.type.tensor_type
        dims: list[int | None] = [
            dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
            for dim in tensor.shape.dim
        ]
        if tensor.elem_type == onnx.TensorProto.UNDEFINED:
            expected = "one of ONNX' tensor types"
            raise ReapError(f"input {value.name}: no element type", got="none", expected=expected)
        given = (shapes or {}).get(value.name)
        sizes = _filled(value.name, dims, given)
        named = None if given is None else tuple(given)
        specs.append(InputSpec(value.name, to_numpy(tensor.elem_type), sizes, named))
        _check_size(specs[-1])
    unknown = set(shapes or {}) - {spec.name for spec in specs}
    if unknown:
        raise UsageError(
            "--input-shapes: no such input",
            got=", ".join(sorted(unknown)),
            expected=", ".join(spec.name for spec in specs),
        )
    return specs


def _check_size(spec: InputSpec) -> None:
    """Refuse sizes that no sample has: they are a slip or damage, and would fill the memory."""
    size = prod(size or 1 for size in spec.shape) * spec.dtype.itemsize
    if size > LARGEST_INPUT:
        raise ReapError(
            f"input {spec.name}: too large",
            got=f"{spec}, {size / 1e9:,.1f} GB",
            expected=f"at most {LARGEST_INPUT / 1e9:.1f} GB a run",
        )


def with_sizes(inputs: Sequence[InputSpec], shapes: Mapping[str, Sequence[int]]) -> list[InputSpec]:
    """Fill in dimensions that are still dynamic, where `shapes` knows them; the batch stays."""
    filled = []
    for spec in inputs:
        known = shapes.get(spec.name, ())
        open_ = spec.shape or (None,) * len(known)
        if len(known) == len(open_):
            pairs = zip(open_[1:], known[1:], strict=True)
            sizes = (*open_[:1], *(size if want is None else want for want, size in pairs))
            spec = replace(spec, shape=sizes, named=spec.named or tuple(known))
        filled.append(spec)
    return filled


def with_values(
    inputs: Sequence[InputSpec], values: Mapping[str, int | float | str]
) -> list[InputSpec]:
    """Tell of inputs what they are fed where there are no data.

    Raises
    ------
    ReapError
        If an input can't hold its value.
    """
    for spec in inputs:
        if spec.name in values and not spec.holds(values[spec.name]):
            raise ReapError(
                f"plan: a value that input {spec.name} can't hold",
                got=str(values[spec.name])[:80],
                expected="a text" if spec.is_text else f"a number or flag, {spec.dtype.name}",
            )
    return [replace(spec, value=values.get(spec.name)) for spec in inputs]


def _filled(
    name: str, dims: Sequence[int | None], given: Sequence[int] | None
) -> tuple[int | None, ...]:
    if given is None:
        return tuple(dims)
    fits = not dims or len(given) == len(dims)
    if not fits or any(d is not None and d != g for d, g in zip(dims, given, strict=False)):
        raise UsageError(
            f"--input-shapes: contradicts input {name}",
            got=",".join(map(str, given)),
            expected=",".join("?" if d is None else str(d) for d in dims),
        )
    return (dims[0] if dims else None, *given[1:]) if given else ()  # a scalar


def normalises_itself(model: Model) -> bool:
    """Whether a model begins by shifting or scaling its inputs, and so takes them as they are."""
    readers = [node for tensor in model.graph.inputs for node in tensor.outputs]
    casts = [node for node in readers if node.op == "Cast"]
    readers += [reader for node in casts for reader in node.outputs[0].outputs]
    shifts = Trait.SUBTRACTS | Trait.SCALES
    return all(traits_of(node.op) & shifts for node in readers if node.op != "Cast")
