"""Models whose nodes stand in the body of a Loop or Scan."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import onnx
import onnx.helper as oh
from small_models import run

from onnx_reap.onnxio.extract import with_outputs
from onnx_reap.onnxio.renaming import renamed

SEQUENCE = "sequence/"
"""How the inputs of a model with a Scan begin, which hold what the given model takes one by one."""

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Looped:
    """A model with a loop, and a sample of its inputs."""

    model: onnx.ModelProto
    feeds: dict[str, np.ndarray]


def in_trips(model: onnx.ModelProto, feeds: Feeds, pick: random.Random) -> Looped:
    """Let a Loop or Scan run all nodes of a model, with a state that enters one of them, if any.

    The state begins as what the same nodes make in front of the loop. The outputs are those of the
    last trip.
    """
    made = _made(model, feeds)
    trips, own_weights = pick.choice([1, 2, 3]), pick.random() < 0.5
    outputs = [value.name for value in model.graph.output]
    states = [
        name
        for name, x in made.items()
        if x.dtype == np.float32 and x.ndim > 1 and np.isfinite(x).all() and name not in outputs
    ]
    state = pick.choice(states) if states and pick.random() < 0.8 else None
    body = _Body(model, made, state, own_weights)
    write = pick.choice([_in_loop, _in_scan])
    return write(model, dict(feeds), body, trips)


def _made(model: onnx.ModelProto, feeds: Feeds) -> dict[str, np.ndarray]:
    names = [name for node in model.graph.node for name in node.output if name]
    found = zip(names, run(with_outputs(model, names), feeds), strict=True)
    return {name: x for name, x in found if isinstance(x, np.ndarray)}


class _Body:
    """The nodes of a model as those of a body."""

    def __init__(
        self, model: onnx.ModelProto, made: Feeds, state: str | None, own_weights: bool
    ) -> None:
        self.graph, self.state = model.graph, state
        self.inner = set(made) | (
            {t.name for t in model.graph.initializer} if own_weights else set()
        )
        self.outputs = {v.name: made[v.name].dtype for v in model.graph.output}
        self.weights = list(model.graph.initializer) if own_weights else []

    def before(self) -> list[onnx.NodeProto]:
        """Write the nodes in front of the loop, where there is a state."""
        names = {name for node in self.graph.node for name in node.output if name}
        return _renamed(self.graph.node, "before/", names) if self.state else []

    def write(
        self,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        sliced: Sequence[str] = (),
        more: Sequence[onnx.NodeProto] = (),
    ) -> onnx.GraphProto:
        """Write the body.

        Parameters
        ----------
        inputs, outputs : sequence of ValueInfoProto
            Those in front of a state and of what the model makes.
        sliced : sequence of str
            Inputs of the model that every trip is handed.
        """
        inner = self.inner | set(sliced)
        nodes = [*_renamed(self.graph.node, "in/", inner), *more]
        values = [value("in/" + name, kind) for name, kind in self.outputs.items()]
        if self.state:
            nodes = list(chain.from_iterable(map(self._with_state, nodes)))
            inputs = [*inputs, value("state")]
            outputs = [*outputs, value("next")]
            nodes.append(oh.make_node("Identity", ["in/" + self.state], ["next"], "next"))
        weights = [copy.deepcopy(weight) for weight in self.weights]
        for weight in weights:
            weight.name = "in/" + weight.name
        taken = [value("in/" + name) for name in sliced]
        return oh.make_graph(nodes, "body", [*inputs, *taken], [*outputs, *values], weights)

    def _with_state(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Add half of the state to what a node makes."""
        name = f"in/{self.state}"
        if name not in node.output:
            return [node]
        node.output[:] = [f"{each}/alone" if each == name else each for each in node.output]
        half = oh.make_node("Mul", ["state", "half"], ["half_state"], "half_state")
        return [node, half, oh.make_node("Add", [f"{name}/alone", "half_state"], [name], "enter")]

    def results(self) -> list[str]:
        """Name the results of the loop."""
        return [*(["last_state"] if self.state else []), *(f"all/{name}" for name in self.outputs)]

    def start(self) -> list[str]:
        """Name the state before the first trip."""
        return [f"before/{self.state}"] if self.state else []


def value(name: str, kind: object = np.float32, shape: object = None) -> onnx.ValueInfoProto:
    """Return the type of a tensor."""
    return oh.make_tensor_value_info(name, oh.np_dtype_to_tensor_dtype(np.dtype(kind)), shape)


def _renamed(nodes: Sequence[onnx.NodeProto], prefix: str, names: set[str]) -> list[onnx.NodeProto]:
    def rename(name: str) -> str:
        return prefix + name if name in names else name

    copies = [renamed(node, rename) for node in nodes]
    for node in copies:
        node.name = node.name and prefix + node.name
    return copies


def _in_loop(model: onnx.ModelProto, feeds: dict, body: _Body, trips: int) -> Looped:
    graph = body.write(
        [value("number", np.int64, []), value("go", np.bool_, [])],
        [value("go_on", np.bool_, [])],
        more=[oh.make_node("Identity", ["go"], ["go_on"], "go_on")],
    )
    inputs = ["trips", "yes", *body.start()]
    loop = oh.make_node("Loop", inputs, body.results(), "loop", body=graph)
    constants = {"trips": np.array(trips), "yes": np.array(True)}
    return Looped(_whole(model, body, loop, model.graph.input, [], constants, trips), feeds)


def _in_scan(model: onnx.ModelProto, feeds: dict, body: _Body, trips: int) -> Looped:
    axes = [1 if x.ndim else 0 for x in feeds.values()]
    graph = body.write([], [], sliced=list(feeds))
    kinds = {"in/" + name: x.dtype for name, x in feeds.items()}
    for each in graph.input:
        if each.name in kinds:
            each.CopyFrom(value(each.name, kinds[each.name]))
    loop = oh.make_node(
        "Scan",
        [*body.start(), *(SEQUENCE + name for name in feeds)],
        body.results(),
        "loop",
        body=graph,
        num_scan_inputs=len(feeds),
        scan_input_axes=axes,
    )
    inputs, first, sequences = [], [], {}
    for (name, x), axis in zip(feeds.items(), axes, strict=True):
        grown = [x * (1 + 0.3 * t) if x.dtype.kind == "f" else x for t in range(trips)]
        sequences[SEQUENCE + name] = np.stack(grown, axis).astype(x.dtype)
        given = next(each for each in model.graph.input if each.name == name).type.tensor_type
        shape = [size.dim_param or size.dim_value for size in given.shape.dim]
        shape.insert(axis, trips)
        inputs.append(value(SEQUENCE + name, x.dtype, shape))
        first.append(oh.make_node("Gather", [SEQUENCE + name, "zero"], [name], axis=axis))
    inputs += [each for each in model.graph.input if each.name not in feeds]
    constants = {"zero": np.array(0)}
    return Looped(_whole(model, body, loop, inputs, first, constants, trips), sequences)


def _whole(
    model: onnx.ModelProto,
    body: _Body,
    loop: onnx.NodeProto,
    inputs: Sequence[onnx.ValueInfoProto],
    first: Sequence[onnx.NodeProto],
    constants: Mapping[str, np.ndarray],
    trips: int,
) -> onnx.ModelProto:
    inputs = list(inputs)
    out = onnx.ModelProto()
    out.CopyFrom(model)
    ends = [oh.make_node("Gather", [f"all/{n}", "last"], [n], axis=0) for n in body.outputs]
    del out.graph.node[:], out.graph.input[:]
    out.graph.input.extend(inputs)
    out.graph.node.extend([*first, *body.before(), loop, *ends])
    more = {**constants, "last": np.array(trips - 1), "half": np.array(0.5, np.float32)}
    weights = (onnx.numpy_helper.from_array(x, name) for name, x in more.items())
    out.graph.initializer.extend(weights)
    onnx.checker.check_model(out)
    return out
