"""Follow what channels hold through the graph, by the weights alone."""

from collections.abc import Sequence

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
from onnx_reap.prune.lossless.rows import SAME
from onnx_reap.prune.lossless.values import Floats, Form, Ints, Signals, alike


class Follower:
    """Finds the form of every tensor whose channels may go.

    Attributes
    ----------
    signals : Signals
    """

    def __init__(self, model: Model, probe: Probe, flow: Flow) -> None:
        self._model, self._probe, self._flow = model, probe, flow
        self._mover = Mover(model, probe, flow)
        self._linears = {linear.node: linear for linear in flow.linears}
        self._bound = {
            (each.constant, each.tensor, each.tensor_axis): each.constant_axis
            for each in flow.bindings
            if each.blocks == 1
        }
        self._forms: dict[tuple[str, int], Form] = {}
        self._ways: dict[tuple[str, bytes], int] = {}
        self.signals = Signals()
        for node in model.nodes:
            self._visit(node)

    def form(self, tensor: str, axis: int) -> Form:
        """Return what the channels along an axis hold; what is not known holds new signals."""
        if (tensor, axis) not in self._forms:
            count = self._probe.shapes[tensor][axis]
            self._forms[tensor, axis] = self.signals.unknown(count)
        return self._forms[tensor, axis]

    def _visit(self, node: gs.Node) -> None:
        axes = self._flow.axes
        if node.domain not in STANDARD_DOMAINS or not any(t.name in axes for t in node.outputs):
            return
        linear = self._linears.get(self._model.keys[id(node)])
        if linear is not None and not linear.depthwise:
            weight = node.inputs[1].values
            if is_float(weight.dtype):
                bias = None if linear.bias is None else node.inputs[2].values
                x = self.form(linear.x, linear.x_axis)
                exact = keeps_constants(linear, node)
                form = mix(linear, weight, bias, x, self.signals, exact=exact)
                self._forms[linear.y, linear.y_axis] = form
        elif Trait.PICKS in traits_of(node.op):
            self._pick(node)
        elif Trait.REGROUPS in traits_of(node.op):
            self._reshape(node)
        elif len([t for t in node.outputs if t.name]) == 1:
            self._treat(node, node.outputs[0].name, linear)

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
        whole = Form.joined([self.form(node.inputs[i].name, a) for i, a in own.items()])
        for index, out in outs.items():
            if varying_axes(picked[index]) in ((out,), ()):
                form = whole.at(vector_along(picked[index], out))
                name = node.outputs[index].name
                self._forms[name, out] = form if along else self._moved(node, index, form)

    def _has(self, tensor: gs.Tensor) -> bool:
        return tensor.name in self._flow.axes

    def _reshape(self, node: gs.Node) -> None:
        """Follow every entry: channels may be joined with positions, or taken apart."""
        x, out = node.inputs[0].name, node.outputs[0].name
        inner, outer = self._flow.axes.get(x), self._flow.axes[out]
        parts = None if inner is None else self._mover.parts(node, inner, outer)
        if inner is None or parts is None:
            return
        (channel, rest), key = parts, self._model.keys[id(node)]
        form = self.form(x, inner)
        if (channel == channel[:, :1]).all():
            form = form.at(channel[:, 0])
            pairs = zip(form.signal.tolist(), rest, strict=True)
            moved = [self.signals.moved(s, self._way(key, row)) for s, row in pairs]
            self._forms[out, outer] = Form.of(np.array(moved), form.scale, form.offset)
            return
        kinds = np.stack([form.signal, form.scale.view(np.int64), form.offset.view(np.int64)])
        same = np.unique(kinds, axis=1, return_inverse=True)[1].ravel()
        keys = [(same[held].tobytes(), row) for held, row in zip(channel, rest, strict=True)]
        first = {each: place for place, each in reversed([*enumerate(keys)])}
        self._new(out, outer, np.array([first[each] for each in keys]))

    def _moved(self, node: gs.Node, index: int, form: Form) -> Form:
        way = self._way(self._model.keys[id(node)], bytes([index]))
        moved = np.array([self.signals.moved(s, way) for s in form.signal.tolist()], np.int64)
        return Form.of(moved, form.scale, form.offset)

    def _way(self, node: str, how: bytes) -> int:
        return self._ways.setdefault((node, how), len(self._ways))

    # Channels alone.

    def _treat(self, node: gs.Node, out: str, linear: Linear | None) -> None:
        axis, shape = self._flow.axes[out], self._probe.shapes[out]
        form = self._simple(node, axis, shape) if linear is None else None
        if form is not None:
            self._forms[out, axis] = form
        elif linear is not None or _alone(node) or self._keeps_floats(node, out):
            self._alone(node, out, axis, linear)

    def _keeps_floats(self, node: gs.Node, out: str) -> bool:
        """Whether a node casts real numbers to others."""
        names = (node.inputs[0].name, out)
        return node.op == "Cast" and all(is_float(self._probe.dtypes[name]) for name in names)

    def _simple(self, node: gs.Node, axis: int, shape: Sequence[int]) -> Form | None:
        """Return the form behind an affine map of each channel or a sum of tensors."""
        names = [t.name for t in node.inputs if not isinstance(t, gs.Constant) and t.name]
        if not names or not all(self._spans(name, axis, shape) for name in names):
            return None
        if len(names) == 1 and self._flow.axes.get(names[0]) == axis:
            form = self.form(names[0], axis)
            tensor = next(t for t in node.inputs if t.name == names[0])
            affine = affine_map(node, tensor, axis, len(shape), len(form.signal))
            if affine is not None and all(np.isfinite(part).all() for part in affine):
                return form.mapped(*affine)
            if node.op == "Dropout" and len(node.inputs) <= 2 and self._model.opset >= 7:
                return form
            if Trait.AVERAGES in traits_of(node.op):
                return self._moved(node, 0, form)
        sums = traits_of(node.op) & (Trait.ADDS | Trait.SUBTRACTS)
        if (sums or node.op == "Mul") and len(names) == len(node.inputs):
            whole, *others = (self.form(name, axis) for name in names)
            for other in others:
                if node.op == "Mul":
                    if len(others) > 1 or not (whole.constant | other.constant).all():
                        return None
                    whole = whole.times(other)
                else:
                    whole = self._sum(whole, other, -1.0 if node.op == "Sub" else 1.0)
            return whole
        return None

    def _spans(self, name: str, axis: int, shape: Sequence[int]) -> bool:
        """Whether a tensor has channels where the output has them."""
        own = self._probe.shapes.get(name, ())
        return len(own) == len(shape) and own[axis] == shape[axis]

    def _sum(self, a: Form, b: Form, sign: float) -> Form:
        signal = np.where(a.constant, b.signal, a.signal)
        scale = np.where(a.constant, sign * b.scale, a.scale)
        same = (a.signal == b.signal) & ~a.constant
        scale = np.where(same, a.scale + sign * b.scale, scale)
        both = np.flatnonzero(~a.constant & ~b.constant & ~same)
        if not len(both):
            return Form.of(signal, scale, a.offset + sign * b.offset)
        ratio = sign * b.scale[both] / a.scale[both]
        first = alike([a.signal[both], b.signal[both]], [ratio])
        new: dict[int, int] = {}
        for place, (at, by) in enumerate(zip(both.tolist(), first.tolist(), strict=True)):
            if by == place:
                new[place] = self.signals.new()
            signal[at] = new[by]
        return Form.of(signal, scale, a.offset + sign * b.offset)

    def _alone(self, node: gs.Node, out: str, axis: int, linear: Linear | None) -> None:
        """Channels that come from equal ones with equal parameters are equal."""
        arriving = self._arriving(node, out, axis, linear)
        if arriving is None:
            return
        forms, common = arriving
        forms = [self.signals.settled(form) for form in forms]
        size = np.ones(len(forms[0].signal))
        if Trait.HOMOGENEOUS in traits_of(node.op) and len(forms) == 1:
            form = forms[0]
            size = np.where(form.constant, 1.0, np.abs(form.scale))
            forms = [Form.of(form.signal, form.scale / size, form.offset / size)]
        parameters = self._parameters(node, out, axis, len(size))
        kinds = [form.signal for form in forms]
        numbers = [n for form in forms for n in (form.scale, form.offset)] + parameters
        form = self._new(out, axis, alike(kinds, numbers))
        fixed = {} if common else self._constants(node, out, axis, forms)
        if linear is not None:  # a channel whose kernel is 0 holds its bias
            if not keeps_constants(linear, node):  # zeros around are no constants but zero
                fixed = {p: v for p, v in fixed.items() if not forms[0].offset[p]}
            idle = [p for p in range(len(size)) if not parameters[0][p].any()]
            bias = parameters[1].ravel() if len(parameters) > 1 else np.zeros(len(size))
            fixed |= {p: float(bias[p]) for p in idle}
        signal, scale, offset = form.signal.copy(), size.copy(), form.offset.copy()
        for position, value in fixed.items():
            signal[position], offset[position] = 0, value
        self._forms[out, axis] = Form.of(signal, scale, offset)

    def _new(self, out: str, axis: int, first: Ints) -> Form:
        """Give a tensor new signals, the same ones where channels are equal."""
        new = {place: self.signals.new() for place in np.unique(first).tolist()}
        signal = np.array([new[place] for place in first.tolist()], np.int64)
        self._forms[out, axis] = Form(signal, np.ones(len(first)), np.zeros(len(first)))
        return self._forms[out, axis]

    def _arriving(
        self, node: gs.Node, out: str, axis: int, linear: Linear | None
    ) -> tuple[list[Form], bool] | None:
        """Return what arrives by channel, and whether something else does that all share."""
        shape, forms, common = self._probe.shapes[out], [], False
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
            forms.append(self.form(tensor.name, place).at(np.arange(shape[axis]) // repeat))
        return (forms, common) if forms else None

    def _parameters(self, node: gs.Node, out: str, axis: int, count: int) -> list[Floats]:
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
                    found.append(values.reshape(count, -1))
        return found

    def _constants(
        self, node: gs.Node, out: str, axis: int, forms: Sequence[Form]
    ) -> dict[int, float]:
        """Run a node on channels that are constant; return those that then still are."""
        constant = np.logical_and.reduce([form.constant for form in forms])
        settings = node.attrs  # of which some pad at some sizes and don't at others
        uneven = settings.get("ceil_mode") or "SAME" in str(settings.get("auto_pad"))
        uneven = uneven and node.op != "MaxPool"  # which pads with what is never the largest
        uneven = uneven or "crop" in str(settings.get("coordinate_transformation_mode"))
        keeps = traits_of(node.op) & (Trait.KEEPS_CONSTANTS | Trait.KEEPS_INNER_CONSTANTS)
        if not constant.any() or not keeps or uneven:
            return {}
        names = [t.name for t in node.inputs if t.name and not isinstance(t, gs.Constant)]
        feed: dict[str, np.ndarray] = {}
        for name, form in zip(names, forms, strict=True):
            own, dtype = self._probe.shapes[name], self._probe.dtypes[name]
            place = self._flow.axes.get(name, axis - len(self._probe.shapes[out]) + len(own))
            repeat = len(form.offset) // own[place]
            values = form.offset[::repeat].reshape([-1, *[1] * (len(own) - place - 1)])
            feed[name] = np.broadcast_to(values, own).astype(dtype)
        part = self._model.part({name: x.dtype for name, x in feed.items()}, [out])
        got = run(session(part, CPU, optimize=False), [out], feed)[out]
        rows = np.moveaxis(got.astype(np.float64), axis, 0).reshape(got.shape[axis], -1)
        flat = np.abs(rows - rows[:, :1]).max(axis=1) <= SAME * np.abs(rows[:, 0])
        held = constant & flat & np.isfinite(rows[:, 0])
        return {int(p): float(rows[p, 0]) for p in np.flatnonzero(held)}


def _alone(node: gs.Node) -> bool:
    """Whether equal channels with equal parameters stay equal, but for rounding."""
    traits = traits_of(node.op)
    return Trait.OWN_CHANNEL in traits and Trait.JUMPS not in traits
