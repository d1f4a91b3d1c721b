"""onnxruntime: sessions, and pieces of models to run."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnx_reap.data.spec import is_float
from onnx_reap.errors import ReapError
from onnx_reap.onnxio import aside

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
            hint='pip install "onnx-reap[cpu]", or "onnx-reap[gpu]" on a machine with CUDA',
        ) from None
    return runtime


def session(
    model: onnx.ModelProto,
    providers: Sequence[str],
    *,
    optimize: bool = True,
    config: Mapping[str, str] = WORKING,
    profile: Path | None = None,
    shares: bool | None = None,
) -> Any:
    """Make an inference session of a model.

    Parameters
    ----------
    model : onnx.ModelProto
    providers : sequence of str
        Execution providers, best first; with libraries of operators if they are
        `providers.Providers`.
    optimize : bool
        Whether onnxruntime may rewrite the graph.
    config : mapping of str to str
        Entries of onnxruntime's session configuration.
    profile : path, optional
        Where onnxruntime's profile goes, without the ending, once `end_profiling` is called.
    shares : bool, optional
        Whether weights that are set aside are computed with as they lie, without optimizations that
        would copy them; by default where they are `heavy`.

    Raises
    ------
    ReapError
        If onnxruntime refuses the model.
    """
    runtime = onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    for library in getattr(providers, "libraries", ()):
        options.register_custom_ops_library(library)
    for key, value in config.items():
        options.add_session_config_entry(key, value)
    weights = aside.arrays(model)
    values = _give(options, weights)
    if (heavy(model) if shares is None else shares) and providers[0] == "CPUExecutionProvider":
        _share(options, values)
    try:
        active = runtime.InferenceSession(
            model.SerializeToString(), options, providers=list(providers)
        )
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ReapError(
            "onnxruntime can't load the model",
            got=str(error),
            hint=_way_out(model),
        ) from error
    active.weights = weights, values  # which onnxruntime reads, and doesn't keep alive
    return active


def _way_out(model: onnx.ModelProto) -> str:
    own = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    more = f"; --custom-op-library for operators of {', '.join(sorted(own))}" if own else ""
    return f"run it in onnxruntime alone{more}"


def heavy(model: onnx.ModelProto) -> bool:
    """Whether so much is set aside that sessions should not copy it."""
    return sum(array.nbytes for array in aside.arrays(model).values()) > HEAVY


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
    aside.let_go()


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
            "onnxruntime can't run the model", got=f"{error} (fed: {shapes})"
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


def with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """Copy a model so that it returns exactly the named tensors."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    declared = {value.name: value for value in model.graph.output}
    del out.graph.output[:]
    out.graph.output.extend(declared.get(n) or onnx.ValueInfoProto(name=n) for n in names)
    return out


def extract(
    model: onnx.ModelProto, inputs: Mapping[str, np.dtype], outputs: Sequence[str]
) -> onnx.ModelProto:
    """Cut out the part of a model that computes `outputs` from `inputs`.

    Parameters
    ----------
    model : onnx.ModelProto
        Its graph inputs that the part still needs stay inputs.
    inputs : mapping of str to numpy.dtype
        Tensors that will be fed, with their types.
    outputs : sequence of str
        Tensors to compute.
    """
    graph = model.graph
    place = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    needed: set[str] = set()
    todo = list(outputs)
    wanted: set[int] = set()
    while todo:
        name = todo.pop()
        if name in needed or name in inputs:
            continue
        needed.add(name)
        if name in place and place[name] not in wanted:
            wanted.add(place[name])
            node = graph.node[place[name]]
            todo += [n for n in node.input if n]
            todo += names_in_subgraphs(node)
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.functions.extend(model.functions)
    part.graph.name = graph.name or "part"
    part.graph.node.extend(graph.node[i] for i in sorted(wanted))
    part.graph.initializer.extend(t for t in graph.initializer if t.name in needed)
    constant = {t.name for t in part.graph.initializer} if model.ir_version >= 4 else set()
    part.graph.input.extend(
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), None
        )
        for name, dtype in inputs.items()
    )
    part.graph.input.extend(i for i in graph.input if i.name in needed and i.name not in constant)
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return part


def names_in_subgraphs(node: onnx.NodeProto) -> list[str]:
    """Return the tensors that the bodies of a node (If, Loop, Scan) read, at any depth."""
    bodies = [a.g for a in node.attribute if a.HasField("g")]
    bodies += [g for a in node.attribute for g in a.graphs]
    names = []
    for body in bodies:
        for inner in body.node:
            names += [n for n in inner.input if n] + names_in_subgraphs(inner)
        names += [o.name for o in body.output]
    return names
