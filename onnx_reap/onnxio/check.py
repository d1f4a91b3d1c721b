"""Whether a pruned model is valid ONNX, with the interface of the original."""

from collections.abc import Sequence

import onnx

from onnx_reap.errors import CheckError
from onnx_reap.onnxio.light_model import LightModel


def check_file(original: LightModel, pruned: LightModel) -> list[str]:
    """Check a model against the ONNX standard, and its interface against the original's.

    Returns
    -------
    list of str
        What could not be checked.

    Raises
    ------
    CheckError
        If the interface changed, or the checker refuses the model though it accepts the original.
    """
    for kind in ("input", "output"):
        before, after = (_declared(model, kind) for model in (original, pruned))
        if before != after:
            raise CheckError(
                f"the model's {kind}s changed", got=_names(after), expected=_names(before)
            )
    if list(original.proto.opset_import) != list(pruned.proto.opset_import):
        raise CheckError("the model's operator sets changed")
    problem = standard_problem(pruned)
    if problem is None:
        return []
    if standard_problem(original) is None:
        raise CheckError(
            "the pruned model is not valid ONNX",
            got=problem,
            expected="what onnx.checker accepts, as it does the original",
            hint="report it as a bug; --exclude the node that is named",
        )
    return ["onnx.checker refuses the original model, so the result could not be checked by it"]


def _declared(model: LightModel, kind: str) -> list[onnx.ValueInfoProto]:
    """List inputs or outputs; IR 3 lists initializers among the inputs, which may shrink."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    return [value for value in getattr(model.graph, kind) if value.name not in initializers]


def _names(values: Sequence[onnx.ValueInfoProto]) -> str:
    return ", ".join(value.name for value in values)


def standard_problem(model: LightModel) -> str | None:
    """Return what onnx.checker says of a model; None if it accepts it."""
    try:
        onnx.checker.check_model(model.with_weights_as_inputs(), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return str(error)
    return None
