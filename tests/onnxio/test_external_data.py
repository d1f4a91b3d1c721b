"""Models whose weights lie in other files: read, pruned, and written as they came."""

import os
import pickle
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from net import Net
from onnx import TensorProto
from small_models import chain, images, weights_of

import onnx_reap
from onnx_reap.cli.main import main
from onnx_reap.errors import ReapError
from onnx_reap.onnxio import light_model
from onnx_reap.onnxio import load as loading
from onnx_reap.onnxio import session as runtime

CHEAP = {"ratio": 0.5, "criterion": "l1", "refit": False}
LINE = "--ratio 0.5 --criterion l1 --no-refit -q"


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", images(24))
    return tmp_path


def _save(model: onnx.ModelProto, path: str = "in.onnx", data: str = "w.bin", least: int = 0):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # onnx.save takes the weights away
    onnx.save(copy, path, save_as_external_data=True, location=data, size_threshold=least)


def _change(change, path: str = "in.onnx") -> None:
    proto = onnx.load(path, load_external_data=False)
    change(proto)
    Path(path).write_bytes(proto.SerializeToString())


def _set(proto: onnx.ModelProto, key: str, value: str) -> None:
    entries = proto.graph.initializer[0].external_data
    left = [e for e in entries if e.key != key]
    del entries[:]
    entries.extend([*left, onnx.StringStringEntryProto(key=key, value=value)])


def _contents() -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in Path().iterdir() if p.is_file()}


def _same_weights(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
    a_, b_ = weights_of(a), weights_of(b)
    assert a_.keys() == b_.keys()
    for name, values in a_.items():
        np.testing.assert_array_equal(values, b_[name])


@pytest.mark.parametrize("settings", [LINE, "-q --data x.npy --target-macs 0.6 --joint-refit 6"])
@pytest.mark.parametrize("ir", [3, 8])
def test_what_comes_in_two_files_goes_out_in_two(ir, settings):
    model = chain(24, seed=3)
    model.ir_version = ir
    if ir == 3:
        model.graph.input.extend(
            oh.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
        )
    _save(model)
    onnx.save(model, "one.onnx")
    given = _contents()
    assert main(["in.onnx", "out.onnx", *settings.split()]) == 0
    assert main(["one.onnx", "single.onnx", *settings.split()]) == 0
    written = _contents()
    assert written.keys() - given.keys() == {"out.onnx", "out.onnx.data", "single.onnx"}
    assert {name: written[name] for name in given} == given
    light = onnx.load("out.onnx", load_external_data=False)
    outside = [t for t in light.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    assert {e.value for t in outside for e in t.external_data if e.key == "location"} == {
        "out.onnx.data"
    }
    assert max(len(t.raw_data) for t in light.graph.initializer) < light_model.SMALLEST
    onnx.checker.check_model("out.onnx", full_check=True)
    _same_weights(onnx.load("out.onnx"), onnx.load("single.onnx"))
    assert main(["in.onnx", "out.onnx", *settings.split()]) == 0
    assert _contents() == written


def test_the_size_that_is_told_bounds_both_files_closely():
    _save(chain(32))
    result = onnx_reap.reap("in.onnx", **CHEAP)
    result.save("out.onnx")
    total = Path("out.onnx").stat().st_size + Path("out.onnx.data").stat().st_size
    assert total <= result.report.after.bytes <= total + 64 * len(result.light.graph.initializer)


def test_a_weight_of_a_constant_or_a_body_may_lie_outside():
    model = chain(16)
    tensor = model.graph.initializer[0]
    model.graph.node.insert(0, oh.make_node("Constant", [], [tensor.name], value=tensor))
    del model.graph.initializer[0]
    inner = oh.make_node("Constant", [], ["z"], value=oh.make_tensor("", 1, [300], [1.0] * 300))
    body = oh.make_graph([inner], "body", [], [oh.make_tensor_value_info("z", 1, [300])])
    model.graph.initializer.append(oh.make_tensor("yes", TensorProto.BOOL, [], [True]))
    branches = {"then_branch": body, "else_branch": body}
    model.graph.node.append(oh.make_node("If", ["yes"], ["extra"], **branches))
    model.graph.output.append(oh.make_tensor_value_info("extra", 1, [300]))
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx.save(
        copy, "in.onnx", save_as_external_data=True, location="w.bin", size_threshold=0,
        convert_attribute=True,
    )  # fmt: skip
    assert len(onnx.load("in.onnx", load_external_data=False).SerializeToString()) < 8000
    _same_weights(onnx_reap.reap("in.onnx", **CHEAP).model, onnx_reap.reap(model, **CHEAP).model)


@pytest.mark.parametrize(
    "location",
    [
        "/etc/passwd",
        "../w.bin",
        "sub/../../w.bin",
        "link.bin",
        "folder/w.bin",
        "",
        ".",
        "nothing.bin",
    ],
)
def test_names_that_lead_out_of_the_folder_are_refused(location, here, capsys):
    inside = here / "inside"
    inside.mkdir()
    os.chdir(inside)
    _save(chain(16))
    Path("../w.bin").write_bytes(Path("w.bin").read_bytes())
    Path("link.bin").symlink_to("../w.bin")
    Path("folder").symlink_to("..", target_is_directory=True)
    Path("sub").mkdir()
    _change(lambda proto: _set(proto, "location", location))
    before = _contents()
    assert main(["in.onnx", "out.onnx", *LINE.split()]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "its external data can't be read" in error
    assert _contents() == before


def test_a_link_within_the_folder_is_followed():
    _save(chain(16))
    Path("w.bin").rename("real.bin")
    Path("w.bin").symlink_to("real.bin")
    assert main(["in.onnx", "out.onnx", *LINE.split()]) == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [("offset", "-4"), ("offset", "99999999"), ("length", "4"), ("length", "x"), ("length", "-1")],
)
def test_places_that_hold_no_such_tensor_are_refused(key, value, capsys):
    _save(chain(16))
    _change(lambda proto: _set(proto, key, value))
    assert main(["in.onnx", "out.onnx", *LINE.split()]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "model file in.onnx" in error


def test_a_length_may_be_left_out():
    n = Net({"x": ("N", 3, 8, 8)})
    model = n.model(n.head(n.block("x", 3, 64), 64, 5))
    _save(model)
    last = model.graph.initializer[0].name

    def move(proto):
        tensor = next(t for t in proto.graph.initializer if t.name == last)
        values = onnx.numpy_helper.to_array(model.graph.initializer[0])
        Path("alone.bin").write_bytes(b"four" + values.tobytes())
        del tensor.external_data[:]
        tensor.external_data.add(key="location", value="alone.bin")
        tensor.external_data.add(key="offset", value="4")

    _change(move)
    _same_weights(onnx_reap.reap("in.onnx", **CHEAP).model, onnx_reap.reap(model, **CHEAP).model)


@pytest.mark.parametrize("data", ["out.onnx.data", "out.onnx"])
@pytest.mark.parametrize("how", ["itself", "symlink", "hard link"])
def test_the_data_of_the_input_is_not_written_over(data, how, capsys):
    _save(chain(16), data="w.bin" if how != "itself" else data)
    if how == "symlink":
        Path(data).symlink_to("w.bin")
    elif how == "hard link":
        Path(data).hardlink_to("w.bin")
    before = _contents()
    assert main(["in.onnx", "out.onnx", *LINE.split()]) == 1
    assert "is the same file as the input's data" in capsys.readouterr().err
    with pytest.raises(onnx_reap.ReapError, match="is the same file as the input's data"):
        onnx_reap.reap("in.onnx", **CHEAP).save("out.onnx")
    assert _contents() == before


def test_a_report_is_not_written_over_the_data_either(capsys):
    _save(chain(16))
    before = _contents()
    line = ["in.onnx", "out.onnx", *LINE.split(), "--report"]
    assert main([*line, "w.bin"]) == 1
    assert main([*line, "out.onnx.data"]) == 1
    assert capsys.readouterr().err.count("is the same file as") == 2
    assert _contents() == before


def test_results_are_saved_as_their_original_came():
    model = chain(16)
    result = onnx_reap.reap(model, **CHEAP)
    result.save("one.onnx")
    assert not Path("one.onnx.data").exists()
    assert onnx.load("one.onnx") == result.model
    _save(model)
    result = onnx_reap.reap("in.onnx", **CHEAP)
    assert all(t.raw_data or not t.external_data for t in result.model.graph.initializer)
    result.save("two.onnx")
    _same_weights(onnx.load("two.onnx"), result.model)
    assert Path("two.onnx.data").exists()


def test_plans_are_replayed_on_them():
    model = chain(16)
    _save(model)
    plan = onnx_reap.reap(model, **CHEAP).plan
    for make in (onnx_reap.cut, onnx_reap.mask):
        made = make("in.onnx", plan)
        _same_weights(made, make(model, plan))
        assert not any(t.external_data for t in made.graph.initializer)


def test_a_sweep_writes_pairs():
    _save(chain(16))
    line = "sweep in.onnx -o sweep --data x.npy --targets 0.8,0.6 -q --joint-refit 0"
    assert main(line.split()) == 0
    models = sorted(path.name for path in Path("sweep").glob("*.onnx*"))
    assert models == [f"model_{t}.onnx{e}" for t in ("0.60", "0.80") for e in ("", ".data")]
    for path in Path("sweep").glob("*.onnx"):
        onnx.checker.check_model(str(path), full_check=True)


@pytest.mark.parametrize("settings", [CHEAP, {"target_macs": 0.6, "joint_refit": 6}])
def test_weights_that_a_message_can_not_hold(settings, monkeypatch):
    """As if messages held a thousand bytes: sessions then share the arrays, too."""
    model, data = chain(24), images(24)
    expected = onnx_reap.reap(model, data, **settings)
    monkeypatch.setattr(loading, "LARGEST", 1000)
    monkeypatch.setattr(runtime, "HEAVY", 1000)
    given = model.SerializeToString()
    result = onnx_reap.reap(model, data, **settings)
    assert model.SerializeToString() == given
    assert result.light.external()
    assert [(g.before, g.after) for g in result.report.groups] == [
        (g.before, g.after) for g in expected.report.groups
    ]
    result.save("out.onnx")
    assert Path("out.onnx.data").exists()
    written, wanted = weights_of(onnx.load("out.onnx")), weights_of(expected.model)
    for name, values in wanted.items():  # onnxruntime sums in another order without optimization
        np.testing.assert_allclose(written[name], values, atol=2e-2 * np.abs(values).max() + 1e-6)


def test_another_model_of_the_same_name_is_read_anew():
    one, other = chain(24, seed=1), chain(24, seed=2)
    results = []  # stay alive, and with them what they read
    for model in (one, other):
        for name in ("in.onnx", "w.bin"):
            Path(name).unlink(missing_ok=True)
        _save(model)
        results.append(onnx_reap.reap("in.onnx", **CHEAP))
    got, wanted = (weights_of(r.model) for r in (results[1], onnx_reap.reap(other, **CHEAP)))
    assert all(np.array_equal(got[name], w) for name, w in wanted.items())
    with pytest.raises(ReapError, match="changed since the model was read"):
        results[0].save("late.onnx")
    assert not Path("late.onnx").exists()


def test_data_that_is_overwritten_before_the_result_is_saved_is_noticed():
    _save(chain(24))
    result = onnx_reap.reap("in.onnx", **CHEAP)
    data = Path("w.bin")
    with data.open("r+b") as file:
        file.write(bytes(data.stat().st_size))
    for late in (lambda: result.save("out.onnx"), lambda: result.model):
        with pytest.raises(ReapError, match="changed since the model was read"):
            late()


def test_a_file_cannot_name_what_others_set_aside():
    _save(chain(24))
    kept = onnx_reap.reap("in.onnx", **CHEAP)

    def steal(proto: onnx.ModelProto) -> None:
        for tensor in proto.graph.initializer:
            del tensor.external_data[:]
            tensor.external_data.add(key="location", value="onnx-reap:0")

    _change(steal)
    with pytest.raises(ReapError, match="can't be read"):
        onnx_reap.reap("in.onnx", **CHEAP)
    assert kept.light.graph.node


def test_results_can_be_pickled():
    result = onnx_reap.reap(chain(16), **CHEAP)
    assert pickle.loads(pickle.dumps(result)).model == result.model
