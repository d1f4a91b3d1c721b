"""Follow what channels hold through the graph, by the weights alone."""

from collections.abc import Mapping, Sequence
from itertools import count

import numpy as np
import onnx_graphsurgeon as gs

from onnx_reap.graph.constancy import CPU
from onnx_reap.graph.epilogue import affine_map
from onnx_reap.graph.ir.domains import STANDARD_DOMAINS
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.probe import Probe
from onnx_reap.graph.labels.labels import varying_axes, vector_along
from onnx_reap.graph.labels.records import Flow, Linear
from onnx_reap.graph.rules.traits import Trait, traits_of
from onnx_reap.onnxio.dtypes import is_float
from onnx_reap.onnxio.session import run, session
from onnx_reap.prune.lossless.mixing import keeps_constants, mix
from onnx_reap.prune.lossless.moves import Mover
from onnx_reap.prune.lossless.values import (
    SAME,
    Content,
    Floats,
    Ints,
    alike,
    joined,
    numbered,
    unknown,
)


class Follower:
    """Finds what every tensor holds whose channels may go."""

    def __init__(self, model: Model, probe: Probe, flow: Flow) -> None:
        self._model, self._probe, self._flow = model, probe, flow
        self._mover = Mover(model, probe, flow)
        self._linears = {linear.node: linear for linear in flow.linears}
        self._bound = {
            (each.constant, each.tensor, each.tensor_axis): each.constant_axis
            for each in flow.bindings
            if each.blocks == 1
        }
        self._contents: dict[tuple[str, int], Content] = {}
        self._numbers = count(1)
        for node in model.nodes:
            self._visit(node)

    def content(self, tensor: str, axis: int) -> Content:
        """Return what the channels along an axis hold; what is not known holds new signals."""
        if (tensor, axis) not in self._contents:
            channels = self._probe.shapes[tensor][axis]
            self._contents[tensor, axis] = unknown(channels, self._numbers)
        return self._contents[tensor, axis]

    def _visit(self, node: gs.Node) -> None:
        axes = self._flow.axes
        if node.domain not in STANDARD_DOMAINS or not any(t.name in axes for t in node.outputs):
            return
        linear = self._linears.get(self._model.keys[id(node)])
        if linear is not None and not linear.depthwise:
            weight = node.inputs[1].values
            if is_float(weight.dtype):
                bias = None if linear.bias is None else node.inputs[2].values
                x = self.content(linear.x, linear.x_axis)
                exact = keeps_constants(linear, node)
                made = mix(linear, weight, bias, x, self._numbers, exact=exact)
                self._contents[linear.y, linear.y_axis] = made
        elif Trait.PICKS in traits_of(node.op):
            self._pick(node)
        elif Trait.REGROUPS in traits_of(node.op):
            self._reshape(node)
        elif len([t for t in node.outputs if t.name]) == 1 and self._keeps_equal(node, linear):
            self._map(node, node.outputs[0].name, linear)

    # Movement.

    def _pick(self, node: gs.Node) -> None:
        """Channels are picked as wholes, and perhaps moved along other axes, all alike."""
        data = range(len(node.inputs) if node.op == "Concat" else 1)
        outs = {i: self._flow.axes[t.name] for i, t in enumerate(node.outputs) if self._has(t)}
        axis = next(iter(outs.values()))
        own = {i: self._flow.axes.get(node.inputs[i].name, axis) for i in data}
        rank = len(self._probe.shapes[node.inputs[0].name])
        along = Trait.ALONG_AXIS in traits_of(node.op)
        along = along and node.attrs.get("axis", 0) % rank == axis == own[0]
        picked = self._mover.picked(node, own)
        if picked is None or (node.op == "Concat" and not (along and {*own.values()} == {axis})):
            return
        whole = joined([self.content(node.inputs[i].name, a) for i, a in own.items()])
        for index, out in outs.items():
            if varying_axes(picked[index]) in ((out,), ()):
                content = whole.at(vector_along(picked[index], out))
                if not along:  # the same channels, otherwise arranged
                    content = self._numbered(content.signal, content)
                self._contents[node.outputs[index].name, out] = content

    def _has(self, tensor: gs.Tensor) -> bool:
        return tensor.name in self._flow.axes

    def _reshape(self, node: gs.Node) -> None:
        """Follow every entry: channels may be joined with positions, or taken apart."""
        x, out = node.inputs[0].name, node.outputs[0].name
        inner, outer = self._flow.axes.get(x), self._flow.axes[out]
        parts = None if inner is None else self._mover.parts(node, inner, outer)
        if inner is None or parts is None:
            return
        (channel, places), content = parts, self.content(x, inner)
        kinds = np.stack([content.signal, content.fixed.view(np.int64)])
        kind = np.unique(kinds, axis=1, return_inverse=True)[1].ravel()[channel]
        keys = [(row.tobytes(), place) for row, place in zip(kind, places, strict=True)]
        first = {each: at for at, each in reversed([*enumerate(keys)])}
        moved = content.at(channel[:, 0])
        mixed = (kind != kind[:, :1]).any(axis=1)
        moved = Content(
            np.where(mixed, -1, moved.signal), moved.constant, np.where(mixed, np.inf, moved.size)
        )
        self._contents[out, outer] = self._numbered(np.array([first[each] for each in keys]), moved)

    def _numbered(self, kinds: Ints, content: Content) -> Content:
        """Give channels new signals, the same one where their kinds are equal."""
        signal = np.where(content.signal == 0, 0, numbered(kinds, self._numbers))
        return Content(signal, content.constant, content.size)

    # Channels alone.

    def _keeps_equal(self, node: gs.Node, linear: Linear | None) -> bool:
        """Whether equal channels with equal parameters stay equal, but for rounding."""
        traits = traits_of(node.op)
        if node.op == "Cast":
            names = (node.inputs[0].name, node.outputs[0].name)
            return all(is_float(self._probe.dtypes[name]) for name in names)
        if node.op == "Dropout":
            return len(node.inputs) <= 2 and self._model.opset >= 7
        own = Trait.OWN_CHANNEL in traits or linear is not None or node.op == "Identity"
        return own and Trait.JUMPS not in traits

    def _map(self, node: gs.Node, out: str, linear: Linear | None) -> None:
        """Channels that come from equal ones with equal parameters are equal."""
        axis = self._flow.axes[out]
        arriving = self._arriving(node, out, axis, linear)
        if arriving is None:
            return
        contents, common = arriving
        affine = self._affine(node, axis, len(self._probe.shapes[out]), contents)
        if affine is not None:
            (x,), (scale, shift) = contents, affine
            signal = np.where(scale == 0, 0, x.signal)
            size = x.size * np.where(scale == 0, 1.0, np.abs(scale))
            made = Content(signal, x.constant * scale + shift, size)
            kinds = alike([signal], [scale, shift])
        else:
            contents = [each.settled() for each in contents]
            channels = len(contents[0].signal)
            parameters = self._parameters(node, out, axis, channels)
            fixed = {} if common else self._constants(node, out, axis, contents)
            if linear is not None:
                fixed = _behind_depthwise(fixed, contents[0], parameters, linear, node)
            if node.op == "Mul":
                zero = np.any([(x.signal == 0) & (x.constant == 0) for x in contents], axis=0)
                fixed |= dict.fromkeys(np.flatnonzero(zero).tolist(), 0.0)
            made = _with_constants(channels, fixed)
            given = [each.fixed for each in contents]
            kinds = alike([each.signal for each in contents], [*given, *parameters])
        self._contents[out, axis] = self._numbered(kinds, made)

    def _affine(
        self, node: gs.Node, axis: int, rank: int, contents: Sequence[Content]
    ) -> tuple[Floats, Floats] | None:
        """Return scale and shift per channel if a node is such a map of one tensor."""
        given = [t for t in node.inputs if not isinstance(t, gs.Constant) and t.name]
        if len(given) != 1 or len(self._probe.shapes[given[0].name]) != rank:
            return None
        affine = affine_map(node, given[0], axis, rank, len(contents[0].signal))
        finite = affine is not None and all(np.isfinite(part).all() for part in affine)
        return affine if finite else None

    def _arriving(
        self, node: gs.Node, out: str, axis: int, linear: Linear | None
    ) -> tuple[list[Content], bool] | None:
        """Return what arrives by channel, and whether something else does that all share."""
        shape, contents, common = self._probe.shapes[out], [], False
        for tensor in node.inputs:
            if isinstance(tensor, gs.Constant) or not tensor.name:
                continue
            own = self._probe.shapes.get(tensor.name)
            if own is None:
                return None
            place = self._flow.axes.get(tensor.name, axis - len(shape) + len(own))
            if tensor.name not in self._flow.axes and (place < 0 or own[place] == 1):
                common = True
                continue
            repeat = shape[axis] // own[place] if linear is not None else 1
            if own[place] * repeat != shape[axis]:
                return None
            contents.append(self.content(tensor.name, place).at(np.arange(shape[axis]) // repeat))
        return (contents, common) if contents else None

    def _parameters(self, node: gs.Node, out: str, axis: int, channels: int) -> list[Floats]:
        """Return the parameters of each channel, (P, m) arrays in the order of the inputs."""
        found = []
        pointwise = Trait.POINTWISE in traits_of(node.op)
        for tensor in node.inputs if pointwise else node.inputs[1:]:
            if isinstance(tensor, gs.Constant):
                own = self._bound.get((tensor.name, out, axis))
                if own is None and node.op == "ConvTranspose":
                    own = self._bound.get((tensor.name, node.inputs[0].name, 1))
                if own is not None:
                    values = np.moveaxis(np.asarray(tensor.values, np.float64), own, 0)
                    found.append(values.reshape(channels, -1))
        return found

    def _constants(
        self, node: gs.Node, out: str, axis: int, contents: Sequence[Content]
    ) -> dict[int, float]:
        """Run a node on channels that are constant; return those that then still are."""
        constant = np.logical_and.reduce([each.signal == 0 for each in contents])
        settings = node.attrs  # of which some pad at some sizes and don't at others
        uneven = settings.get("ceil_mode") or "SAME" in str(settings.get("auto_pad"))
        uneven = uneven and node.op != "MaxPool"  # which pads with what is never the largest
        uneven = uneven or "crop" in str(settings.get("coordinate_transformation_mode"))
        keeps = traits_of(node.op) & (Trait.KEEPS_CONSTANTS | Trait.KEEPS_INNER_CONSTANTS)
        if not constant.any() or not keeps or uneven:
            return {}
        names = [t.name for t in node.inputs if t.name and not isinstance(t, gs.Constant)]
        feed: dict[str, np.ndarray] = {}
        for name, content in zip(names, contents, strict=True):
            own, dtype = self._probe.shapes[name], self._probe.dtypes[name]
            place = self._flow.axes.get(name, axis - len(self._probe.shapes[out]) + len(own))
            repeat = len(content.constant) // own[place]
            values = content.constant[::repeat].reshape([-1, *[1] * (len(own) - place - 1)])
            feed[name] = np.broadcast_to(values, own).astype(dtype)
        part = self._model.part({name: x.dtype for name, x in feed.items()}, [out])
        got = run(session(part, CPU, optimize=False), [out], feed)[out]
        rows = np.moveaxis(got.astype(np.float64), axis, 0).reshape(got.shape[axis], -1)
        flat = np.abs(rows - rows[:, :1]).max(axis=1) <= SAME * np.abs(rows[:, 0])
        held = constant & flat & np.isfinite(rows[:, 0])
        return {int(p): float(rows[p, 0]) for p in np.flatnonzero(held)}


def _with_constants(channels: int, fixed: Mapping[int, float]) -> Content:
    """Return channels of which some are constant, and of the others nothing is known."""
    signal, constant = np.full(channels, -1), np.zeros(channels)
    signal[[*fixed]], constant[[*fixed]] = 0, [*fixed.values()]
    return Content(signal, constant, np.full(channels, np.inf))


def _behind_depthwise(
    fixed: Mapping[int, float],
    x: Content,
    parameters: Sequence[Floats],
    linear: Linear,
    node: gs.Node,
) -> dict[int, float]:
    """Return the constants behind a depthwise layer, of those that a run of it gave."""
    exact = keeps_constants(linear, node)  # zeros around are no constants but zero
    kept = {p: value for p, value in fixed.items() if exact or not x.constant[p]}
    kernels = parameters[0]
    bias = parameters[1].ravel() if len(parameters) > 1 else np.zeros(len(kernels))
    idle = np.flatnonzero(~kernels.any(axis=1)).tolist()
    return kept | {p: float(bias[p]) for p in idle}  # whose kernel is 0 holds its bias
