"""onnxruntime: sessions that run models."""

import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnx_reap.errors import MissingKernelError, ReapError
from onnx_reap.onnxio.dtypes import is_float
from onnx_reap.onnxio.extract import with_outputs
from onnx_reap.onnxio.light_model import LightModel
from onnx_reap.onnxio.mapped_files import release_memory
from onnx_reap.onnxio.threads import in_session

Feed = Mapping[str, np.ndarray]

WORKING = {"session.intra_op.allow_spinning": "0"}
"""Threads that wait give way to other sessions and to the solver, which have work."""

HEAVY = 2**30
"""Bytes of weights past which a session has no copy of them."""


def onnxruntime() -> Any:
    """Import onnxruntime.

    Raises
    ------
    ReapError
        If neither onnxruntime nor onnxruntime-gpu is installed.
    """
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        raise ReapError(
            "onnxruntime is not installed",
            hint="pip install onnxruntime, or onnxruntime-gpu on a machine with CUDA",
        ) from None
    return runtime


def session(
    model: LightModel | onnx.ModelProto,
    providers: Sequence[str],
    *,
    outputs: Iterable[str] | None = None,
    optimize: bool = True,
    blocked: bool = True,
    config: Mapping[str, str] = WORKING,
    profile: Path | None = None,
    shares: bool | None = None,
    at_once: int = 1,
) -> Any:
    """Make an inference session of a model.

    Parameters
    ----------
    model : LightModel or onnx.ModelProto
    outputs : iterable of str, optional
        Tensors that the session returns; the model's outputs by default.
    optimize : bool
        Whether onnxruntime may rewrite the graph.
    blocked : bool
        Whether it may lay out what convolutions with constant weights take and give in blocks of
        channels. That is faster, unless most weights are fed: then data goes back and forth.
    config : mapping of str to str
        Entries of onnxruntime's session configuration.
    profile : path, optional
        Where onnxruntime's profile goes, without the ending, once `end_profiling` is called.
    at_once : int
        Sessions that run side by side, and divide the threads among them.
    shares : bool, optional
        Whether weights beside the proto are computed with as they lie, without optimizations that
        would copy them; by default where they are `heavy`.

    Raises
    ------
    ReapError
        If onnxruntime refuses the model.
    """
    runtime, light = onnxruntime(), LightModel.of(model)
    if outputs is not None:
        light = replace(light, proto=with_outputs(light.proto, outputs))
    light = light.without_unread()
    proto = light.proto
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    if not (optimize and blocked):
        levels = runtime.GraphOptimizationLevel
        level = levels.ORT_ENABLE_EXTENDED if optimize else levels.ORT_DISABLE_ALL
        options.graph_optimization_level = level
    options.intra_op_num_threads = in_session(getattr(providers, "threads", None), at_once)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    for library in getattr(providers, "libraries", ()):
        options.register_custom_ops_library(library)
    for key, value in config.items():
        options.add_session_config_entry(key, value)
    weights = light.external()
    values = _give(options, weights)
    if (heavy(light) if shares is None else shares) and providers[0] == "CPUExecutionProvider":
        _share(options, values)
        release_memory(weights.values())
    try:
        active = runtime.InferenceSession(
            proto.SerializeToString(), options, providers=list(providers)
        )
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise _refusal(proto, str(error)) from error
    active.weights = weights, values  # which onnxruntime reads, and doesn't keep alive
    return active


def _refusal(model: onnx.ModelProto, text: str) -> ReapError:
    what, hint = "onnxruntime can't load the model", _way_out(model)
    missing = re.search(r"Could not find an implementation for (\w+)\(", text)
    if missing is None:
        return ReapError(what, got=text, hint=hint)
    hint = f"export {missing[1]} as the operators that it is made of, or for an older opset; {hint}"
    return MissingKernelError(missing[1], what, got=text, hint=hint)


def _way_out(model: onnx.ModelProto) -> str:
    own = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    more = f"; --custom-op-library for operators of {', '.join(sorted(own))}" if own else ""
    return f"run it in onnxruntime alone{more}"


def heavy(model: LightModel | onnx.ModelProto) -> bool:
    """Whether so many weights lie beside the proto that sessions should not copy them."""
    return sum(array.nbytes for array in LightModel.of(model).external().values()) > HEAVY


def _give(options: Any, weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Tell a session the weights that its model only names."""
    value = onnxruntime().OrtValue.ortvalue_from_numpy
    values = {name: value(array) for name, array in weights.items()}
    if values:
        options.add_external_initializers(list(values), list(values.values()))
    return values


def _share(options: Any, values: Mapping[str, Any]) -> None:
    """Let a session compute with the very arrays that it was given, not with copies of its own.

    What would rearrange weights, or replace some, is off.
    """
    runtime = onnxruntime()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    for name, value in values.items():
        options.add_initializer(name, value)


def run(active: Any, outputs: Sequence[str] | None, feed: Feed) -> dict[str, np.ndarray]:
    """Run a session and return its outputs by name.

    Floating-point numbers are converted where the session wants float32.

    Raises
    ------
    ReapError
        If onnxruntime fails on the feed.
    """
    names = list(outputs) if outputs is not None else [o.name for o in active.get_outputs()]
    try:
        values = active.run(names, _as_taken(active, feed))
    except Exception as error:  # onnxruntime's exceptions share no base class
        shapes = ", ".join(f"{name} {tuple(array.shape)}" for name, array in feed.items())
        raise ReapError(
            "onnxruntime can't run the model",
            got=f"{error} (fed: {shapes})",
            hint="check that --data holds what the model takes, such as ids in its range",
        ) from error
    return dict(zip(names, values, strict=True))


def _as_taken(active: Any, feed: Feed) -> dict[str, np.ndarray]:
    singles = {value.name for value in active.get_inputs() if value.type == "tensor(float)"}
    return {
        name: array.astype(np.float32, copy=False)
        if name in singles and is_float(array.dtype)
        else array
        for name, array in feed.items()
    }
