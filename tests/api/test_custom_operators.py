"""Operators that are not of the standard: of onnxruntime's own domain, or of a library."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from net import Net
from small_models import images, run

import onnx_reap
from onnx_reap.cli.main import main
from onnx_reap.errors import CheckError
from onnx_reap.graph.ir.model import Model

OWN = "com.microsoft"
CONTRIB = "ai.onnx.contrib"


@pytest.fixture(autouse=True)
def _folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def _fused_conv() -> onnx.ModelProto:
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.block("x", 3, 16)
    weight, bias = n.random(16, 16, 3, 3, scale=0.1), n.random(16, scale=0.1)
    h = n.node("FusedConv", h, weight, bias, domain=OWN, activation="Relu", pads=[1] * 4)
    h = n.block(n.block(h, 16, 16), 16, 16)
    return n.model(n.head(h, 16, 5), check=False)


def _pointwise(op: str, domain: str = OWN, outputs: int = 1) -> onnx.ModelProto:
    n = Net({"x": ("N", 3, 8, 8)})
    made = n.node(op, n.conv(n.block("x", 3, 16), 16, 16), domain=domain, outputs=outputs)
    h = made if outputs == 1 else n.node("Sub", *made)
    h = n.block(n.block(h, 16, 16), 16, 16)
    return n.model(n.head(h, 16, 5), check=False)


def _skip_norm() -> onnx.ModelProto:
    n = Net({"x": ("N", 6, 16)})
    dense = n.node("MatMul", "x", n.random(16, 16, scale=0.25))
    parameters = (n.random(16), n.random(16))
    h = n.node("SkipLayerNormalization", dense, "x", *parameters, domain=OWN)
    h = n.node("Relu", n.node("MatMul", h, n.random(16, 32, scale=0.25)))
    return n.model(n.node("MatMul", h, n.random(32, 4, scale=0.2)), check=False)


@pytest.mark.parametrize(
    ("model", "op"),
    [
        (_fused_conv(), "FusedConv"),
        (_pointwise("Gelu"), "Gelu"),
        (_pointwise("FastGelu"), "FastGelu"),
        (_skip_norm(), "SkipLayerNormalization"),
    ],
    ids=["FusedConv", "Gelu", "FastGelu", "SkipLayerNormalization"],
)
@pytest.mark.parametrize("settings", [{"criterion": "l1", "refit": False}, {"samples": 16}])
def test_onnxruntimes_own_operators_are_followed_and_stay(model, op, settings):
    data = np.random.default_rng(0).standard_normal((16, 6, 16), np.float32)
    data = images(16) if model.graph.input[0].type.tensor_type.shape.dim[1].dim_value == 3 else data
    result = onnx_reap.reap(model, data, ratio=0.5, **settings)
    assert not any("no rule" in row.reason for row in result.report.frozen)
    after = [g.after for g in result.report.groups]
    assert sum(after) < sum(g.before for g in result.report.groups)
    cut, masked = (make(model, result.plan) for make in (onnx_reap.cut, onnx_reap.mask))
    for a, b in zip(run(cut, {"x": data}), run(masked, {"x": data}), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(b).max())  # float32 sums
    own = [[n for n in m.graph.node if n.op_type == op] for m in (model, result.model)]
    assert own[0] == own[1] != []


def test_the_calls_of_a_file_are_verified_too(monkeypatch):
    to_file = Model.to_file

    def wrong(model):
        written = to_file(model)
        for node in (n for n in written.proto.graph.node if n.op_type == "FusedConv"):
            activation = next(a for a in node.attribute if a.name == "activation")
            activation.s = b"Sigmoid"
        return written

    monkeypatch.setattr(Model, "to_file", wrong)
    with pytest.raises(CheckError, match="is not the masked model"):
        onnx_reap.reap(_fused_conv(), images(16), ratio=0.5, criterion="l1", refit=False)


@pytest.mark.parametrize("content", [None, b"no library at all"])
def test_a_library_that_can_not_be_loaded_is_refused(content, capsys):
    onnx.save(_pointwise("Gelu"), "in.onnx")
    if content is not None:
        Path("ops.so").write_bytes(content)
    assert main(["in.onnx", "out.onnx", "--ratio", "0.5", "--custom-op-library", "ops.so"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--custom-op-library ops.so: " in error
    assert not Path("out.onnx").exists()


def test_an_operator_of_no_library_is_refused():
    with pytest.raises(onnx_reap.ReapError, match="--custom-op-library"):
        onnx_reap.reap(_pointwise("NegPos", CONTRIB, 2), images(8), ratio=0.5)


def test_libraries_are_paths():
    with pytest.raises(onnx_reap.ReapError, match="--custom-op-library"):
        onnx_reap.reap(_pointwise("Gelu"), images(8), ratio=0.5, custom_op_library=3)


@pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_extensions") is None,
    reason="onnxruntime-extensions is not installed",
)
def test_a_library_serves_every_session():
    import onnxruntime
    import onnxruntime_extensions

    library = onnxruntime_extensions.get_library_path()
    model, data = _pointwise("NegPos", CONTRIB, 2), images(48)
    onnx.save(model, "in.onnx")
    np.save("x.npy", data)
    line = "in.onnx out.onnx -q --data x.npy --target-macs 0.7 --joint-refit 6 --plan plan.json"
    assert main([*line.split(), "--custom-op-library", library]) == 0
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(library)
    sizes = {}
    for name in ("in.onnx", "out.onnx"):
        session = onnxruntime.InferenceSession(name, options)
        assert session.run(None, {"x": data})[0].shape == (48, 5)
        sizes[name] = Path(name).stat().st_size
    assert sizes["out.onnx"] < sizes["in.onnx"]
    result = onnx_reap.reap(model, data, ratio=0.5, custom_op_library=library)
    assert any("negpos" in row.cause for row in result.report.frozen)
    for make in (onnx_reap.cut, onnx_reap.mask):
        assert make(model, "plan.json", custom_op_library=library).graph.node
    assert onnx_reap.inspect(model, custom_op_library=library).groups
