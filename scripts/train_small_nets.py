"""Train two small networks with branches, and export them with their data.

    python scripts/train_small_nets.py fire FOLDER     # Fashion-MNIST, classified
    python scripts/train_small_nets.py unet FOLDER     # noisy shapes, segmented

`NAME.onnx` takes raw pixel values; `NAME.npz` holds `calibration`, and `images` with `labels`. The
last 1,000 training images calibrate, and nothing is trained on them; other images judge.

The first is laid out like SqueezeNet 1.1 at half its width: no normalisation, squeezes whose two
expansions are concatenated, and a 1x1 convolution with Relu in front of the pooling as classifier.
The second is a U-Net with one concatenation for each of its two resolutions.

It needs what `scripts/train_fashion_mnist.py` needs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from train_fashion_mnist import (
    DEFAULT_DATA,
    NUM_CLASSES,
    Int64Array,
    Normalize,
    Split,
    UInt8Array,
    conv_bn,
    learning_rate,
    load_split,
    train,
)

CALIBRATION, EVALUATION = 1000, 5000
EPOCHS = {"fire": 10, "unet": 12}
FIRES = ((8, 32), (8, 32), (16, 64), (16, 64), (24, 96), (24, 96), (32, 128), (32, 128))
POOLED = (0, 2, 4)  # fire modules behind a pooling
WIDTHS = (8, 16, 32)  # of the U-Net, by resolution
SHAPES, SIDE = 3, 32  # kinds of shapes; pixels of an image
BATCH = 50


class Fire(nn.Module):
    """A 1x1 squeeze, and two expansions of it, 1x1 and 3x3, concatenated."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the module."""
        x = functional.relu(self.squeeze(x))
        return functional.relu(torch.cat([self.expand1(x), self.expand3(x)], 1))


def fire_net(mean: float, std: float) -> nn.Module:
    """Return an untrained network of fire modules."""
    layers: list[nn.Module] = [Normalize(mean, std), nn.Conv2d(1, 32, 3, padding=1), nn.ReLU()]
    channels = 32
    for index, (squeezed, expanded) in enumerate(FIRES):
        if index in POOLED:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        layers.append(Fire(channels, squeezed, expanded))
        channels = 2 * expanded
    classifier = [nn.Dropout(0.5), nn.Conv2d(channels, NUM_CLASSES, 1), nn.ReLU()]
    net = nn.Sequential(*layers, *classifier, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return net


class UNet(nn.Module):
    """Two resolutions down and up again."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.normalize = Normalize(mean, std)
        self.down1, self.down2 = _two(1, first), _two(first, second)
        self.middle = _two(second, third)
        self.widen2 = nn.ConvTranspose2d(third, second, 2, 2)
        self.up2 = _two(2 * second, second)
        self.widen1 = nn.ConvTranspose2d(second, first, 2, 2)
        self.up1 = _two(2 * first, first)
        self.classifier = nn.Conv2d(first, SHAPES + 1, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return class scores of every pixel."""
        one = self.down1(self.normalize(pixels))
        two = self.down2(functional.max_pool2d(one, 2))
        three = self.middle(functional.max_pool2d(two, 2))
        two = self.up2(torch.cat([self.widen2(three), two], 1))
        one = self.up1(torch.cat([self.widen1(two), one], 1))
        scores: Tensor = self.classifier(one)
        return scores


def _two(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        conv_bn(inputs, outputs, 3), nn.ReLU(), conv_bn(outputs, outputs, 3), nn.ReLU()
    )


def draw_shapes(count: int, seed: int) -> Split:
    """Draw discs, squares and crosses in noise; labels are the kind of shape at every pixel.

    Returns
    -------
    Split
        Images, (count, 1, SIDE, SIDE), and labels, (count, SIDE, SIDE); 0 is the ground.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    images = np.empty((count, 1, SIDE, SIDE), np.uint8)
    labels: Int64Array = np.zeros((count, SIDE, SIDE), np.int64)
    for image, label in zip(images, labels, strict=True):
        light = np.full((SIDE, SIDE), 110.0)
        for _ in range(rng.integers(2, 6)):
            kind, radius = rng.integers(1, SHAPES + 1), rng.uniform(3, 8)
            y, x = (np.abs(axis - rng.uniform(0, SIDE)) for axis in (rows, columns))
            disc, square = np.hypot(y, x) <= radius, np.maximum(y, x) <= 0.9 * radius
            cross = square & (np.minimum(y, x) <= 0.3 * radius)
            inside = (disc, square, cross)[kind - 1]
            light[inside] = 110 + rng.choice([-1, 1]) * rng.uniform(25, 70)
            label[inside] = kind
        image[0] = np.clip(light + rng.normal(0, 30, light.shape), 0, 255)
    return Split(images, labels)


def train_unet(model: nn.Module, data: Split, epochs: int) -> None:
    """Train by Adam on the entropy of every pixel."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-3)
    steps = len(data.images) // BATCH
    for epoch in range(epochs):
        order, total = torch.randperm(len(data.images)), 0.0
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate((epoch + step / steps) / epochs, 5e-3)
            chosen = order[step * BATCH : (step + 1) * BATCH].numpy()
            scores = model(torch.from_numpy(data.images[chosen]).float())
            loss = functional.cross_entropy(scores, torch.from_numpy(data.labels[chosen]))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}", flush=True)


def export(model: nn.Module, calibration: UInt8Array, judging: Split, path: Path) -> None:
    """Write the model and its data."""
    np.savez_compressed(
        path.with_suffix(".npz"),
        calibration=calibration,
        images=judging.images,
        labels=judging.labels,
    )
    torch.onnx.export(
        model.eval(),
        (torch.zeros(1, *calibration.shape[1:]),),
        str(path),
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("net", choices=("fire", "unet"))
    parser.add_argument("output", type=Path, help="folder to write into")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of Fashion-MNIST")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random choice")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    if arguments.net == "fire":
        data, judging = load_split(arguments.data, "train"), load_split(arguments.data, "t10k")
        judging = Split(judging.images[:EVALUATION], judging.labels[:EVALUATION])
    else:
        data, judging = draw_shapes(5000, 0), draw_shapes(1000, 1)
    learned = Split(data.images[:-CALIBRATION], data.labels[:-CALIBRATION])
    mean, std = float(learned.images.mean()), float(learned.images.std())
    if arguments.net == "fire":
        model = fire_net(mean, std)
        settings = {"lr": 0.02, "weight_decay": 5e-4, "smoothing": 0.0, "batch_size": 100}
        options = argparse.Namespace(epochs=EPOCHS[arguments.net], bf16=True, **settings)
        train(model.to(memory_format=torch.channels_last), learned, options)
    else:
        model = UNet(mean, std)
        train_unet(model, learned, EPOCHS[arguments.net])
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"{arguments.net}.onnx"
    export(model, data.images[-CALIBRATION:], judging, path)


if __name__ == "__main__":
    main()
