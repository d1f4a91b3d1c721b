"""Measure what the tool promises: accuracy kept, time and memory.

    python scripts/benchmark.py                    # the shipped model
    python scripts/benchmark.py --bench FOLDER     # and CIFAR-10 and ImageNet models in a folder

The folder holds `resnet20_cifar10.onnx`, `resnet56_cifar10.onnx`, `mobilenet_v2_imagenet.onnx`,
`cifar10_test.npz` (uint8 images `x`, N x 32 x 32 x 3, labels `y`) and `imagenet_even/NNNN.jpg`
(NNNN is the class). Calibration and evaluation images are disjoint; labels only judge.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from rich.console import Console
from rich.table import Table

import onnx_reap

MODELS = Path(__file__).resolve().parent.parent / "models"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CONSOLE = Console()
PARTS = ("run", "removal", "criterion", "allocation", "drop", "latency")


@dataclass(frozen=True)
class Task:
    """A model with calibration images, labelled images and preprocessing.

    Attributes
    ----------
    calibration, images : (N, C, H, W) uint8 arrays
    labels : (N,) int array
        Of `images`.
    goals : mapping of float to float
        By the fraction of the multiply-accumulates to keep, the accuracy to reach, in percent.
    """

    name: str
    model: Path
    calibration: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    goals: Mapping[float, float]
    preprocess: dict[str, Any]

    def accuracy(self, model: onnx.ModelProto | Path) -> float:
        """Top-1 accuracy on the labelled images, in percent."""
        return 100 * float(np.mean(self.classes(model) == self.labels))

    def classes(self, model: onnx.ModelProto | Path) -> np.ndarray:
        """Return the class that a model puts each of the labelled images into, (N,)."""
        source = str(model) if isinstance(model, Path) else model.SerializeToString()
        session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        batches = (self.images[at : at + 50] for at in range(0, len(self.images), 50))
        scores = [session.run(None, {name: self.prepared(batch)})[0] for batch in batches]
        result: np.ndarray = np.concatenate(scores).argmax(1)
        return result

    def prepared(self, images: np.ndarray) -> np.ndarray:
        """Apply the preprocessing, written out once more and apart from the tool's."""
        x = images.astype(np.float32)
        if self.preprocess:
            x = x * np.float32(self.preprocess["scale"])
            mean, std = (np.array(self.preprocess[k], np.float32) for k in ("mean", "std"))
            x = (x - mean[:, None, None]) / std[:, None, None]
        return x


def fashion() -> Task:
    """Return the shipped model at half its MACs."""
    labelled = np.load(MODELS / "fashion_eval.npz")
    calibration = np.load(MODELS / "fashion_calib.npz")["input"]
    model = MODELS / "fashion_resnet.onnx"
    task = Task("Fashion ResNet", model, calibration, labelled["input"], labelled["labels"], {}, {})
    return replace(task, goals={0.5: task.accuracy(model) - 1.5})


def cifar(folder: Path, name: str, goals: Mapping[float, float]) -> Task:
    """Return a CIFAR-10 model, with 1,000 calibration images."""
    data = np.load(folder / "cifar10_test.npz")
    order = np.random.default_rng(0).permutation(10_000)
    images = data["x"].transpose(0, 3, 1, 2)
    return Task(
        name,
        folder / f"{name}_cifar10.onnx",
        images[order[:1000]],
        images[order[5000:]],
        data["y"].ravel()[order[5000:]],
        goals,
        {"scale": 1 / 255, "mean": MEAN, "std": STD},
    )


def imagenet(folder: Path) -> Task:
    """Return MobileNetV2; classes divisible by 4 calibrate, the others judge."""
    from PIL import Image

    def crop(path: Path) -> np.ndarray:
        image = Image.open(path).convert("RGB")
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        box = (left, top, left + 224, top + 224)
        return np.asarray(image.crop(box)).transpose(2, 0, 1)

    paths = sorted((folder / "imagenet_even").glob("*.jpg"))
    classes = np.array([int(path.stem) for path in paths])
    images = np.stack([crop(path) for path in paths])
    calibrates = classes % 4 == 0
    return Task(
        "mobilenet_v2",
        folder / "mobilenet_v2_imagenet.onnx",
        images[calibrates],
        images[~calibrates],
        classes[~calibrates],
        {0.85: 74.0, 0.8: 76.2, 0.7: 68.2},
        {"scale": 1 / 255, "mean": MEAN, "std": STD},
    )


def all_tasks(bench: Path | None) -> list[Task]:
    """Return the shipped model, and those of a folder."""
    if bench is None:
        return [fashion()]
    return [
        fashion(),
        cifar(bench, "resnet20", {0.6: 78.5, 0.5: 76.0}),
        cifar(bench, "resnet56", {0.6: 80.0, 0.5: 80.6}),
        imagenet(bench),
    ]


def accuracies(tasks: list[Task], seeds: int, setting: str, values: Sequence[object]) -> None:
    """Prune every model with each value of a setting, all else equal, and print accuracies."""
    table = Table(title="Accuracy on labelled images, %")
    for title in ("model", "MACs off", setting, *map(str, range(seeds)), "mean", "goal", "before"):
        table.add_column(title, justify="right")
    for task in tasks:
        before = task.accuracy(task.model)
        for (macs, goal), value in product(task.goals.items(), values):
            found = [
                _pruned(task, seed, {setting: value, "target_macs": macs}) for seed in range(seeds)
            ]
            after = [task.accuracy(result.model) for result in found]
            figures = [*after, np.mean(after), goal, before]
            off = 1 - found[0].report.after.macs / found[0].report.before.macs
            table.add_row(task.name, f"{off:.1%}", str(value), *(f"{x:.2f}" for x in figures))
    CONSOLE.print(table)


def drops(tasks: list[Task]) -> None:
    """Bound the loss to 1 %, and compare with what other images lose."""
    table = Table(title="--max-drop 1%: top-1 disagreement")
    for title in ("model", "MACs off", "held out", "interval", "on other images"):
        table.add_column(title, justify="right")
    for task in tasks:
        try:
            result = _pruned(task, 0, {"max_drop": 0.01})
        except onnx_reap.ReapError as error:
            CONSOLE.print(f"{task.name}: {error}")
            continue
        report, loss = result.report, result.report.loss
        assert loss is not None
        other = np.mean(task.classes(task.model) != task.classes(result.model))
        off = 1 - report.after.macs / report.before.macs
        interval = f"{loss.low:.2%} to {loss.high:.2%}"
        table.add_row(task.name, f"{off:.1%}", f"{loss.value:.2%}", interval, f"{other:.2%}")
    CONSOLE.print(table)


def latencies(tasks: list[Task]) -> None:
    """Ask for 0.7 times the latency, and print what the interleaved measurement says."""
    for task in tasks:
        report = _pruned(task, 0, {"target_latency": "0.7x"}).report
        ratio = report.after.latency_ms / report.before.latency_ms
        CONSOLE.print(f"{task.name}: --target-latency 0.7x gives {ratio:.3f}x")


def _pruned(task: Task, seed: int, settings: Mapping[str, Any]) -> onnx_reap.Result:
    return onnx_reap.reap(task.model, task.calibration, seed=seed, **settings, **task.preprocess)


def whole_run(folder: Path) -> None:
    """Time a run on MobileNetV2 against two forward passes, in a process of its own."""
    task = imagenet(folder)
    images = np.concatenate([task.calibration, task.images])[:256]
    x = task.prepared(images)
    session = onnxruntime.InferenceSession(str(task.model), providers=["CPUExecutionProvider"])

    def passes() -> None:
        for at in range(0, 512, 32):
            session.run(None, {"input": x[at % 256 : at % 256 + 32]})

    plain = min(_seconds(passes) for _ in range(3))
    CONSOLE.print(f"MobileNetV2, 256 images: two forward passes {plain:.2f} s")
    for allocation in ("local", "pro"):
        prune = partial(onnx_reap.reap, task.model, images, target_macs=0.85, allocation=allocation)
        run = _seconds(partial(prune, **task.preprocess))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        CONSOLE.print(
            f"whole run, --allocation {allocation}: {run:.2f} s ({run / plain:.1f} times), "
            f"peak memory so far {peak:.2f} GiB"
        )


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, help="folder of further models and images")
    parser.add_argument("--model", help="one model alone, such as resnet20")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each row of a table")
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    arguments = parser.parse_args()
    parts = {arguments.only} if arguments.only else set(PARTS)
    if "run" in parts and arguments.bench:
        if arguments.only == "run":
            whole_run(arguments.bench)
        else:  # in a process of its own, for its own peak of memory
            command = [sys.executable, __file__, "--only", "run", "--bench", str(arguments.bench)]
            subprocess.run(command, check=True)
    if "removal" in parts:
        subprocess.run(
            [sys.executable, str(Path(__file__).with_name("time_removal.py"))], check=True
        )
    tasks = all_tasks(arguments.bench)
    if arguments.model:
        names = [task.name for task in tasks]
        tasks = [task for task in tasks if task.name == arguments.model]
        if not tasks:
            parser.error(f"--model {arguments.model}: not one of {', '.join(names)}")
    if "criterion" in parts:
        accuracies(tasks, arguments.seeds, "criterion", ("reap", "l1"))
    if "allocation" in parts:
        accuracies(tasks, arguments.seeds, "allocation", ("pro", "local", "uniform"))
    if "drop" in parts:
        drops(tasks)
    if "latency" in parts:
        latencies([task for task in tasks if task.name in ("Fashion ResNet", "mobilenet_v2")])


if __name__ == "__main__":
    main()
