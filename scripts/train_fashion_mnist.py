"""Train a small ResNet on Fashion-MNIST and export it with its data samples.

The script rebuilds the three example files of the ``models`` folder:

* ``fashion_resnet.onnx``: the trained network. It takes raw pixel values
  (0 to 255) and normalises them itself.
* ``fashion_calib.npz``: unlabelled training images, for calibration.
* ``fashion_eval.npz``: labelled test images, for measuring accuracy.

Training only ever sees the 60,000 training images. The weights of the last
epoch are the ones exported; the test images are read once, at the end.

It needs ``torch``, ``numpy``, ``onnx`` and ``onnxruntime``. The images come from
the Debian package ``dataset-fashion-mnist``, or from any folder (see ``--data``)
that holds the four ``idx.gz`` files of the Fashion-MNIST distribution.
"""

from __future__ import annotations

import argparse
import gzip
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn
from torch.nn import functional

DEFAULT_DATA = Path("/usr/share/datasets/fashion-mnist")
DEFAULT_OUTPUT = Path(__file__).resolve().parent.parent / "models"

IMAGE_SIZE = 28
NUM_CLASSES = 10
STAGE_WIDTHS = (16, 32, 96)
STAGE_BLOCKS = (1, 2, 2)
CALIB_IMAGES = 512
EVAL_IMAGES = 5000
OPSET = 17

UInt8Array = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]


# --------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Split:
    """Images and labels of one part of the data set.

    Attributes
    ----------
    images : ndarray of uint8, shape (n, 1, 28, 28)
        Raw pixel values.
    labels : ndarray of int64, shape (n,)
        Class numbers, 0 to 9.
    """

    images: UInt8Array
    labels: Int64Array


def read_idx(path: Path) -> UInt8Array:
    """Read one gzip-compressed IDX file of unsigned bytes.

    Parameters
    ----------
    path : Path
        The ``.gz`` file.

    Returns
    -------
    ndarray of uint8
        The array, in the shape that the file declares.
    """
    with gzip.open(path, "rb") as stream:
        raw = stream.read()
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an IDX file of unsigned bytes")
    rank = raw[3]
    shape = tuple(int(size) for size in np.frombuffer(raw, ">u4", count=rank, offset=4))
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * rank)
    if values.size != math.prod(shape):
        raise ValueError(f"{path} holds {values.size} values, its header says {shape}")
    return values.reshape(shape)


def load_split(folder: Path, prefix: str) -> Split:
    """Load the images and labels of one split.

    Parameters
    ----------
    folder : Path
        Folder of the four ``idx.gz`` files.
    prefix : str
        ``"train"`` or ``"t10k"``.

    Returns
    -------
    Split
        The images, with a channel axis, and their labels.
    """
    images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
    return Split(images[:, np.newaxis], labels.astype(np.int64))


def write_samples(train: Split, test: Split, output: Path, seed: int) -> Split:
    """Write the calibration and evaluation files.

    Parameters
    ----------
    train, test : Split
        The two splits of the data set.
    output : Path
        Folder to write into.
    seed : int
        Seed of the choice of calibration images.

    Returns
    -------
    Split
        The evaluation images, which are the first ``EVAL_IMAGES`` test images.
    """
    chosen = np.random.default_rng(seed).permutation(len(train.images))[:CALIB_IMAGES]
    np.savez_compressed(output / "fashion_calib.npz", input=train.images[chosen])
    evaluation = Split(test.images[:EVAL_IMAGES], test.labels[:EVAL_IMAGES])
    np.savez_compressed(
        output / "fashion_eval.npz", input=evaluation.images, labels=evaluation.labels
    )
    return evaluation


# -------------------------------------------------------------------------- model


class Normalize(nn.Module):
    """Turn raw pixel values into zero-mean, unit-variance values.

    Parameters
    ----------
    mean, std : float
        Mean and standard deviation of the raw training pixels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return ``(pixels - mean) / std``."""
        return (pixels - self.mean) / self.std


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return a bias-free convolution followed by batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut around them.

    The shortcut is the identity, or a 1x1 projection when the shape changes.

    Parameters
    ----------
    inputs, outputs : int
        Channels in and out.
    stride : int
        Stride of the first convolution and of the projection.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv_bn(inputs, outputs, 3, stride)
        self.conv2 = conv_bn(outputs, outputs, 3)
        same_shape = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same_shape else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return functional.relu(self.conv2(functional.relu(self.conv1(x))) + self.shortcut(x))


class FashionResNet(nn.Module):
    """Small three-stage ResNet for 28x28 grey images.

    Parameters
    ----------
    mean, std : float
        Pixel statistics for the built-in normalisation.
    """

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.stem = conv_bn(1, STAGE_WIDTHS[0], 3)
        blocks: list[nn.Module] = []
        channels = STAGE_WIDTHS[0]
        for stage, (width, count) in enumerate(zip(STAGE_WIDTHS, STAGE_BLOCKS, strict=True)):
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(BasicBlock(channels, width, stride))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, NUM_CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the class logits of raw pixel values (0 to 255)."""
        features = self.blocks(functional.relu(self.stem(self.normalize(pixels))))
        logits: Tensor = self.classifier(torch.flatten(self.pool(features), 1))
        return logits


# ----------------------------------------------------------------------- training


def random_shift(images: Tensor, pixels: int) -> Tensor:
    """Move each image by up to ``pixels`` in both directions, filling with zeros."""
    count, size = len(images), images.shape[-1]
    padded = functional.pad(images, (pixels, pixels, pixels, pixels))
    top = torch.randint(0, 2 * pixels + 1, (count, 1))
    left = torch.randint(0, 2 * pixels + 1, (count, 1))
    rows = (top + torch.arange(size))[:, None, :, None]
    columns = (left + torch.arange(size))[:, None, None, :]
    return padded[torch.arange(count)[:, None, None, None], 0, rows, columns]


def random_flip(images: Tensor) -> Tensor:
    """Mirror each image left to right with probability one half."""
    flip = torch.rand(len(images), 1, 1, 1) < 0.5
    return torch.where(flip, images.flip(-1), images)


def random_erase(images: Tensor, size: int, probability: float) -> Tensor:
    """Set one square of each chosen image to zero.

    Parameters
    ----------
    images : Tensor
        A batch of images.
    size : int
        Side of the square; its place is uniform within the image.
    probability : float
        Share of the images that lose a square.

    Returns
    -------
    Tensor
        The changed batch.
    """
    count, side = len(images), images.shape[-1]
    position = torch.arange(side)
    top = torch.randint(0, side - size + 1, (count, 1))
    left = torch.randint(0, side - size + 1, (count, 1))
    in_rows = (position >= top) & (position < top + size)
    in_columns = (position >= left) & (position < left + size)
    chosen = torch.rand(count, 1, 1) < probability
    square = in_rows[:, :, None] & in_columns[:, None, :] & chosen
    return images.masked_fill(square[:, None], 0)


def augment(images: Tensor) -> Tensor:
    """Apply the random flip, shift and erasure used in training."""
    return random_erase(random_shift(random_flip(images), 2), size=8, probability=0.5)


def learning_rate(progress: float, peak: float, warmup: float = 0.15) -> float:
    """Return the rate of a linear warm-up followed by a cosine decay to zero.

    Parameters
    ----------
    progress : float
        Share of the training that is done, 0 to 1.
    peak : float
        Highest rate.
    warmup : float
        Share of the training spent on the warm-up.

    Returns
    -------
    float
        The learning rate at that point.
    """
    if progress < warmup:
        return peak * (0.1 + 0.9 * progress / warmup)
    return 0.5 * peak * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def make_optimizer(model: nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    """Return SGD with Nesterov momentum, with weight decay on the kernels only."""
    kernels = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": kernels, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)


def train(model: nn.Module, data: Split, args: argparse.Namespace) -> None:
    """Train the model in place.

    Parameters
    ----------
    model : Module
        The network to train.
    data : Split
        The training images and labels.
    args : Namespace
        The command-line options.
    """
    images = torch.from_numpy(data.images.copy())
    labels = torch.from_numpy(data.labels)
    optimizer = make_optimizer(model, args.weight_decay)
    steps = len(images) // args.batch_size
    model.train()
    for epoch in range(args.epochs):
        start, loss_sum, correct = time.perf_counter(), 0.0, 0
        order = torch.randperm(len(images))
        for step in range(steps):
            rate = learning_rate((epoch + step / steps) / args.epochs, args.lr)
            for group in optimizer.param_groups:
                group["lr"] = rate
            chosen = order[step * args.batch_size : (step + 1) * args.batch_size]
            pixels = augment(images[chosen]).float().to(memory_format=torch.channels_last)
            target = labels[chosen]
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
                logits = model(pixels)
            loss = functional.cross_entropy(logits.float(), target, label_smoothing=args.smoothing)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            loss_sum += loss.item()
            correct += int((logits.argmax(1) == target).sum())
        print(
            f"epoch {epoch + 1}/{args.epochs}: loss {loss_sum / steps:.4f}, augmented train "
            f"accuracy {correct / (steps * args.batch_size):.2%}, "
            f"{time.perf_counter() - start:.0f} s",
            flush=True,
        )


# ------------------------------------------------------------- measures and export


def count_macs(model: nn.Module) -> int:
    """Count the multiply-accumulates of the convolutions and linear layers.

    Parameters
    ----------
    model : Module
        The network, which is left in evaluation mode.

    Returns
    -------
    int
        Multiply-accumulates for one image.
    """
    total = 0

    def add(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        weight = module.get_parameter("weight")
        total += output.numel() * weight[0].numel()

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(add) for layer in layers]
    with torch.no_grad():
        model.eval()(torch.zeros(1, 1, IMAGE_SIZE, IMAGE_SIZE))
    for handle in handles:
        handle.remove()
    return total


def export_onnx(model: nn.Module, path: Path) -> None:
    """Export the model in evaluation mode, with batch normalisation folded.

    Parameters
    ----------
    model : Module
        The trained network.
    path : Path
        The file to write.
    """
    model.eval()
    torch.onnx.export(
        model,
        (torch.zeros(1, 1, IMAGE_SIZE, IMAGE_SIZE),),
        str(path),
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=OPSET,
        do_constant_folding=True,
        dynamo=False,
    )
    onnx.checker.check_model(str(path), full_check=True)


def count_stored_values(path: Path) -> int:
    """Return the number of values in the initializers of an ONNX file."""
    graph = onnx.load(str(path)).graph
    return sum(math.prod(tensor.dims) for tensor in graph.initializer)


def onnx_accuracy(path: Path, data: Split, threads: int, batch: int = 500) -> float:
    """Measure the top-1 accuracy of an ONNX file with ONNX Runtime.

    Parameters
    ----------
    path : Path
        The ONNX file.
    data : Split
        Raw images and their labels.
    threads : int
        Number of threads to use.
    batch : int
        Images per run.

    Returns
    -------
    float
        The share of images that are classified correctly.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    correct = 0
    for start in range(0, len(data.images), batch):
        pixels = data.images[start : start + batch].astype(np.float32)
        logits = np.asarray(session.run(["logits"], {"input": pixels})[0])
        correct += int((logits.argmax(1) == data.labels[start : start + batch]).sum())
    return correct / len(data.images)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Train a small ResNet on Fashion-MNIST and export it to ONNX.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--data", type=Path, default=DEFAULT_DATA, help="folder of the idx.gz files"
    )
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="folder to write into")
    parser.add_argument("--epochs", type=int, default=25, help="passes over the training images")
    parser.add_argument("--batch-size", type=int, default=128, help="images per step")
    parser.add_argument("--lr", type=float, default=0.1, help="highest learning rate")
    parser.add_argument("--weight-decay", type=float, default=5e-4, help="decay of the kernels")
    parser.add_argument("--smoothing", type=float, default=0.1, help="label smoothing")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random choice")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument(
        "--bf16",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="train in bfloat16 mixed precision (the export is float32 either way)",
    )
    return parser.parse_args()


def main() -> None:
    """Train, export and measure."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    torch.use_deterministic_algorithms(True)
    train_data, test_data = load_split(args.data, "train"), load_split(args.data, "t10k")
    pixels = train_data.images
    model = FashionResNet(float(pixels.mean()), float(pixels.std()))
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} trainable parameters, {count_macs(model):,} MACs per image", flush=True)

    start = time.perf_counter()
    train(model, train_data, args)
    print(f"training took {(time.perf_counter() - start) / 60:.1f} minutes")

    args.output.mkdir(parents=True, exist_ok=True)
    evaluation = write_samples(train_data, test_data, args.output, args.seed)
    path = args.output / "fashion_resnet.onnx"
    export_onnx(model, path)
    print(
        f"{path.name}: {path.stat().st_size:,} bytes, {count_stored_values(path):,} stored values"
    )
    for name, data in (("test", test_data), ("evaluation", evaluation)):
        accuracy = onnx_accuracy(path, data, args.threads)
        print(f"ONNX Runtime accuracy on the {len(data.images):,} {name} images: {accuracy:.2%}")


if __name__ == "__main__":
    main()
