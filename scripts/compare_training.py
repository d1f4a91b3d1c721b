"""Compare what repairs without training code reach with training in PyTorch, and with other tools.

    pip install torch==2.13.0 torch-pruning==1.6.1 onnxsim==0.8.1
    python scripts/compare_training.py --bench FOLDER --model resnet20

FOLDER is that of benchmark.py. All see the same calibration images and no label. Rows:

- this tool, its repairs layer by layer alone, and all of them;
- the cut model without repairs, and with those layer by layer, trained end to end in PyTorch
  towards the original's outputs: Adam, a cosine, mirrored and shifted images; the step is the
  better of two on held-out calibration images;
- torch-pruning (global, by magnitude of groups), to as many MACs, BatchNorm statistics estimated
  anew on the calibration images; channels of residual streams stay, see `Network.added_up`;
- onnxsim's structured pruning, to as many MACs, and its finetuning of the fully connected layers.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxsim
import torch
import torch_pruning
from benchmark import CONSOLE, Task, all_tasks
from onnx import numpy_helper
from onnxsim.finetune import apply_pruning_finetune
from rich.table import Table
from torch import Tensor, nn

import onnx_reap

HELD_OUT = 0.1  # of the calibration images: they choose the step of the training
STEPS = (1e-3, 3e-4)
EPOCHS = 20
BATCH = 32
SHIFT = 8  # an image moves by at most its side divided by this

Operator = Callable[..., Tensor]


class Network(nn.Module):
    """A convolutional network of an ONNX model, in PyTorch; layers are modules of their own."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self._nodes = list(model.graph.node)
        self._constants = {
            t.name: torch.tensor(numpy_helper.to_array(t)) for t in model.graph.initializer
        }
        self._constants |= {
            node.output[0]: torch.tensor(numpy_helper.to_array(node.attribute[0].t))
            for node in self._nodes
            if node.op_type == "Constant"
        }
        self._input, self._output = model.graph.input[0].name, model.graph.output[0].name
        self.layers = nn.ModuleDict()
        for index, node in enumerate(self._nodes):
            if node.op_type in LAYERS:
                read = [self._constants[name] for name in node.input[1:]]
                self.layers[str(index)] = LAYERS[node.op_type](_attributes(node), *read)

    def forward(self, x: Tensor) -> Tensor:
        """Run all nodes."""
        known = {**self._constants, self._input: x}
        for index, node in enumerate(self._nodes):
            if node.op_type in LAYERS:
                known[node.output[0]] = self.layers[str(index)](known[node.input[0]])
            elif node.op_type != "Constant":
                read = [known[name] if name else None for name in node.input]
                known[node.output[0]] = OTHERS[node.op_type](_attributes(node), *read)
        return known[self._output]

    def added_up(self) -> list[str]:
        """Name the layers whose channels residual sums or outputs hold; shortcuts pad with zeros.

        torch-pruning doesn't follow such shortcuts.
        """
        leading, found = {self._output}, []
        for index, node in reversed([*enumerate(self._nodes)]):
            stops = node.op_type in ("Add", "Pad", "Slice")
            if stops or (node.output[0] in leading and node.op_type not in ("Conv", "Gemm")):
                leading.update(node.input)
            elif node.output[0] in leading:
                found.append(str(index))
        return found


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _conv(given: Mapping[str, Any], weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    pads, group = list(given.get("pads", (0, 0, 0, 0))), given.get("group", 1)
    assert pads[:2] == pads[2:]
    layer = nn.Conv2d(
        weight.shape[1] * group, weight.shape[0], tuple(weight.shape[2:]),
        tuple(given.get("strides", (1, 1))), tuple(pads[:2]), groups=group, bias=bias is not None,
    )  # fmt: skip
    return _holding(layer, weight=weight, bias=bias)


def _norm(given: Mapping[str, Any], *values: Tensor) -> nn.Module:
    layer = nn.BatchNorm2d(len(values[0]), eps=given.get("epsilon", 1e-5))
    names = ("weight", "bias", "running_mean", "running_var")
    return _holding(layer, **dict(zip(names, values, strict=True)))


def _gemm(given: Mapping[str, Any], weight: Tensor, bias: Tensor) -> nn.Module:
    weight = weight if given.get("transB") else weight.T.contiguous()
    return _holding(nn.Linear(weight.shape[1], weight.shape[0]), weight=weight, bias=bias)


def _holding(layer: nn.Module, **values: Tensor | None) -> nn.Module:
    layer.load_state_dict({n: x for n, x in values.items() if x is not None}, strict=False)
    return layer


LAYERS: Mapping[str, Callable[..., nn.Module]] = {
    "Conv": _conv,
    "BatchNormalization": _norm,
    "Gemm": _gemm,
}
OTHERS: Mapping[str, Operator] = {
    "Relu": lambda _, x: torch.relu(x),
    "Clip": lambda _, x, low, high: torch.clamp(x, float(low), float(high)),
    "Add": lambda _, x, y: x + y,
    "Flatten": lambda _, x: x.flatten(1),
    "GlobalAveragePool": lambda _, x: x.mean((2, 3), keepdim=True),
    "Gather": lambda given, x, places: x.index_select(given.get("axis", 0), places),
    "Pad": lambda _, x, pads, *rest: _padded(x, pads.tolist()),
    "Slice": lambda _, x, *places: _sliced(x, *(place.tolist() for place in places)),
}


def _padded(x: Tensor, pads: list[int]) -> Tensor:
    rank = len(pads) // 2
    ends = zip(reversed(pads[:rank]), reversed(pads[rank:]), strict=True)
    return nn.functional.pad(x, [n for both in ends for n in both])


def _sliced(
    x: Tensor, starts: list[int], ends: list[int], axes: list[int], steps: list[int]
) -> Tensor:
    places = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        places[axis] = slice(start, end, step)
    return x[tuple(places)]


def distilled(student: onnx.ModelProto, task: Task, seed: int) -> Network:
    """Train a model towards the original's outputs, with the step that held-out images choose."""
    images = torch.tensor(task.prepared(task.calibration))
    found: list[tuple[float, Network]] = []
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    count = int(len(images) * HELD_OUT)
    held_out, training = images[order[:count]], images[order[count:]]
    teacher = Network(onnx.load(task.model))
    teacher.eval()
    for step in STEPS:
        network = Network(student)
        network.eval()  # statistics stay: batches of copies would move them
        _train(network, teacher, training, step, seed)
        with torch.no_grad():
            found.append((float(_divergence(network(held_out), teacher(held_out))), network))
        CONSOLE.print(f"  step {step}: held-out divergence {found[-1][0]:.3f}")
    _, best = min(found, key=lambda each: each[0])
    return best


def _train(network: Network, teacher: Network, images: Tensor, step: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=step)
    steps = EPOCHS * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for batch in _batches(images, generator):
            with torch.no_grad():
                wanted = teacher(batch)
            optimizer.zero_grad()
            _divergence(network(batch), wanted).backward()
            optimizer.step()
            schedule.step()


def _batches(images: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield mirrored and shifted images in random order."""
    most = images.shape[-1] // SHIFT
    padded = nn.functional.pad(images, [most] * 4, mode="reflect")
    side = images.shape[-1]
    for places in torch.randperm(len(images), generator=generator).split(BATCH):
        batch = []
        for place in places:
            top, left, mirror = torch.randint(2 * most + 1, (3,), generator=generator).tolist()
            image = padded[place, :, top : top + side, left : left + side]
            batch.append(image.flip(-1) if mirror % 2 else image)
        yield torch.stack(batch)


def _divergence(found: Tensor, wanted: Tensor) -> Tensor:
    logs, wished = found.log_softmax(-1), wanted.log_softmax(-1)
    return (wished.exp() * (wished - logs)).sum(-1).mean()


def torch_pruned(task: Task, macs: float) -> Network:
    """Prune by the magnitude of groups, and estimate the statistics of BatchNorm anew."""
    images = torch.tensor(task.prepared(task.calibration))
    low, high = 0.0, 1.0
    for _ in range(10):
        ratio = (low + high) / 2
        found, share = _cut_by_ratio(task, images[:1], ratio)
        low, high = (ratio, high) if share > macs else (low, ratio)
    found, share = _cut_by_ratio(task, images[:1], high)
    CONSOLE.print(f"  torch-pruning: {share:.1%} of the MACs")
    norms = [each for each in found.modules() if isinstance(each, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative means
    found.train()
    with torch.no_grad():
        for batch in images.split(100):
            found(batch)
    found.eval()
    return found


def _cut_by_ratio(task: Task, example: Tensor, ratio: float) -> tuple[Network, float]:
    network = Network(onnx.load(task.model))
    network.eval()
    before, _ = torch_pruning.utils.count_ops_and_params(network, example)
    ignored = [network.layers[index] for index in network.added_up()]
    torch_pruning.pruner.MetaPruner(
        network, example, importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio, global_pruning=True, max_pruning_ratio=0.9, ignored_layers=ignored,
    ).step()  # fmt: skip
    after, _ = torch_pruning.utils.count_ops_and_params(network, example)
    return network, after / before


def onnxsim_pruned(task: Task, macs: float) -> onnx.ModelProto:
    """Prune, and finetune as far as that tool can."""
    model = onnxsim.simplify(onnx.load(task.model))[0]
    before, low, high = _macs(model), 0.0, 0.95
    for _ in range(8):
        ratio = (low + high) / 2
        share = _macs(onnxsim.apply_structured_pruning(copy.deepcopy(model), ratio)) / before
        low, high = (ratio, high) if share > macs else (low, ratio)
    pruned = onnxsim.apply_structured_pruning(copy.deepcopy(model), high)
    CONSOLE.print(f"  onnxsim: {_macs(pruned) / before:.1%} of the MACs")
    name, images = model.graph.input[0].name, task.prepared(task.calibration)
    feeds = [{name: images[at : at + 50]} for at in range(0, len(images), 50)]
    tuned: onnx.ModelProto = apply_pruning_finetune(model, pruned, feeds)
    return tuned


def _macs(model: onnx.ModelProto) -> int:
    return onnx_reap.inspect(model).total.macs


def classes(model: onnx.ModelProto | Network, task: Task) -> np.ndarray:
    """Return the class of each labelled image."""
    if not isinstance(model, Network):
        return task.classes(model)
    with torch.no_grad():
        batches = (task.images[at : at + 50] for at in range(0, len(task.images), 50))
        found = [model(torch.tensor(task.prepared(x))).argmax(1).numpy() for x in batches]
    return np.concatenate(found)


def compare(task: Task, macs: float, seed: int) -> Table:
    """Make one row for every way."""
    table = Table(title=f"{task.name}, {1 - macs:.0%} of the MACs off, seed {seed}")
    for title in ("model", "accuracy, %", "agrees with the original, %"):
        table.add_column(title, justify="right")
    original = task.classes(task.model)

    def add(title: str, model: onnx.ModelProto | Network) -> None:
        found = classes(model, task)
        right, same = 100 * np.mean(found == task.labels), 100 * np.mean(found == original)
        table.add_row(title, f"{right:.2f}", f"{same:.2f}")
        CONSOLE.print(f"{title}: {right:.2f} {same:.2f}")

    def pruned(**settings: Any) -> onnx.ModelProto:
        chosen = {"target_macs": macs, "round_to": 1, "seed": seed, **task.preprocess}
        return onnx_reap.reap(task.model, task.calibration, **chosen, **settings).model

    add("original", onnx.load(task.model))
    bare, layers = pruned(refit=False), pruned(joint_refit=0, tune=0)
    add("this tool, no repairs", bare)
    add("this tool, layer by layer", layers)
    add("this tool", pruned())
    add("PyTorch, from no repairs", distilled(bare, task, seed))
    add("PyTorch, from layer by layer", distilled(layers, task, seed))
    add("torch-pruning, BatchNorm anew", torch_pruned(task, macs))
    add("onnxsim", onnxsim_pruned(task, macs))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, required=True, help="folder of models and images")
    parser.add_argument("--model", default="resnet20", help="a model of benchmark.py")
    parser.add_argument("--keep", type=float, default=0.5, help="fraction of the MACs to keep")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    tasks = [task for task in all_tasks(arguments.bench) if task.name == arguments.model]
    if not tasks:
        parser.error(f"--model {arguments.model}: not a model of benchmark.py")
    CONSOLE.print(compare(tasks[0], arguments.keep, arguments.seed))


if __name__ == "__main__":
    main()
