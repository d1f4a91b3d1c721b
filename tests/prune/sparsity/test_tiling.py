"""Whole runs: the written file obeys the pattern, and is the repaired model."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from net import Net
from nets import NETS, mobile, residual
from small_models import chain, images, run, weights_of

import onnx_reap
from onnx_reap.cli.main import main
from onnx_reap.errors import CheckError, ReapError, UsageError
from onnx_reap.measure.compare import compare
from onnx_reap.solve.patterns import block_sums

TILES = {"tile": "8x1", "tile_sparsity": 0.5}
FOURS = {"pattern": "2:4"}


def grids(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Weights as (outputs, inputs, taps), by node, as they are in the file."""
    weights, found = weights_of(model), {}
    for node in model.graph.node:
        if node.op_type == "Conv":
            found[node.name] = weights[node.input[1]].reshape(*weights[node.input[1]].shape[:2], -1)
        if node.op_type == "Gemm":
            found[node.name] = weights[node.input[1]].T[..., None]
    return found


@pytest.mark.parametrize("name", ["chain", "residual", "mobile", "joined"])
def test_two_of_every_four_input_channels_are_zero_in_the_file(name, tmp_path):
    result = (
        onnx_reap.reap(NETS[name](), images(40), **FOURS)
        if name != "joined"
        else (onnx_reap.reap(NETS[name](), images(40, 4), **FOURS))
    )
    result.save(tmp_path / "out.onnx")
    weights = grids(onnx.load(tmp_path / "out.onnx"))
    tiling = result.report.tiling
    assert tiling.layers
    for layer in tiling.layers:
        o, c, t = weights[layer.node].shape
        assert c % 4 == 0
        assert (np.count_nonzero(weights[layer.node].reshape(o, c // 4, 4, t), axis=2) <= 2).all()
        assert layer.zeros == 0.5
    for row in tiling.dense:
        assert np.count_nonzero(weights[row.node]) > 0.9 * weights[row.node].size
        assert "no multiple of 4" in row.reason or "depthwise" in row.reason
    onnx.checker.check_model(result.model, full_check=True)


@pytest.mark.parametrize("rows, columns", [(8, 1), (4, 4)])
def test_tiles_are_zero_as_a_whole_in_the_file(rows, columns):
    result = onnx_reap.reap(residual(), images(40), tile=f"{rows}x{columns}", tile_sparsity=0.5)
    weights, zeros, size = grids(result.model), 0, 0
    for layer in result.report.tiling.layers:
        weight = (weights[layer.node] != 0).astype(float)
        kept = block_sums(block_sums(weight, 0, rows), 1, columns)
        whole = block_sums(block_sums(np.ones(weight.shape), 0, rows), 1, columns)
        assert ((kept == 0) | (kept == whole)).all()
        assert layer.zeros == pytest.approx(1 - weight.mean())
        zeros, size = zeros + (weight == 0).sum(), size + weight.size
    assert zeros / size == pytest.approx(0.5, abs=0.01) == result.report.tiling.zeros


@pytest.mark.parametrize("pattern", [TILES, FOURS], ids=["8x1", "2:4"])
@pytest.mark.parametrize("net", [residual, mobile])
def test_another_order_loses_less_and_changes_nothing(net, pattern):
    tiling = onnx_reap.reap(net(), images(40), **pattern).report.tiling
    assert tiling.permuted > 0
    assert tiling.difference < 1e-5
    assert tiling.score_lost < tiling.score_lost_unpermuted


@pytest.mark.parametrize("pattern", [TILES, FOURS], ids=["8x1", "2:4"])
def test_the_repair_never_hurts_the_samples_that_it_saw(pattern):
    result = onnx_reap.reap(residual(), images(60), **pattern)
    plain = onnx_reap.reap(residual(), images(60), refit=False, **pattern)
    for layer in result.report.tiling.layers:
        assert layer.error_after <= layer.error_before
    assert sum(x.error_after < 0.7 * x.error_before for x in result.report.tiling.layers) > 3
    (error,), (masked,) = (each.report.fitted.output_error.values() for each in (result, plain))
    assert error < 0.5 * masked


def test_without_a_permutation_channels_stay():
    result = onnx_reap.reap(chain(), images(40), permutation=False, refit=False, **FOURS)
    before, after = grids(chain()), grids(result.model)
    for layer in result.report.tiling.layers:
        kept = after[layer.node] != 0
        np.testing.assert_array_equal(after[layer.node][kept], before[layer.node][kept])
    assert result.report.tiling.permuted == 0
    tiling = result.report.tiling
    assert tiling.score_lost == tiling.score_lost_unpermuted


def test_without_data_weights_go_by_magnitude():
    given = {"criterion": "l1", "refit": False, "permutation": False}
    result = onnx_reap.reap(chain(), **given, **FOURS)
    before, after = grids(chain()), grids(result.model)
    for layer in result.report.tiling.layers:
        o, c, t = before[layer.node].shape
        fours = np.abs(before[layer.node]).reshape(o, c // 4, 4, t)
        kept = after[layer.node].reshape(fours.shape) != 0
        best = np.sort(fours, axis=2)[:, :, 2:].sum()
        assert fours[kept].sum() == pytest.approx(best, rel=1e-6)


def test_channels_go_first():
    result = onnx_reap.reap(chain(), images(60), ratio=0.5, round_to=4, joint_refit=0, **FOURS)
    assert result.report.after.macs < 0.6 * result.report.before.macs
    for layer in result.report.tiling.layers:
        o, c, t = grids(result.model)[layer.node].shape
        fours = grids(result.model)[layer.node].reshape(o, c // 4, 4, t)
        assert (np.count_nonzero(fours, axis=2) <= 2).all()


def test_a_model_keeps_all_channels_unless_a_budget_takes_some():
    result = onnx_reap.reap(chain(), images(60), **TILES)
    assert result.report.after.macs == result.report.before.macs
    assert all(group.before == group.after for group in result.report.groups)


def test_excluded_layers_stay_dense():
    model = chain()
    name = model.graph.node[3].name
    result = onnx_reap.reap(model, images(40), exclude=name, **FOURS)
    reasons = {row.node: row.reason for row in result.report.tiling.dense}
    assert "excluded" in reasons[name]


def test_the_same_run_makes_the_same_file():
    first, second = (onnx_reap.reap(mobile(), images(40), **TILES).model for _ in range(2))
    assert first.SerializeToString() == second.SerializeToString()


def test_half_precision_keeps_its_type_and_its_zeros():
    result = onnx_reap.reap(chain(dtype=np.float16), images(40), **FOURS)
    for name, weight in grids(result.model).items():
        assert weight.dtype == np.float16
        if name in {layer.node for layer in result.report.tiling.layers}:
            assert np.mean(weight == 0) >= 0.5


def test_a_group_whose_move_changes_the_function_is_left_out(monkeypatch):
    from onnx_reap.prune.sparsity import ordering as arranging

    every, calls = onnx_reap.reap(residual(), images(40), **FOURS).report.tiling, []
    assert not every.unmoved

    def wrong(*models, **given):
        calls.append(models)
        if len(calls) in (1, 2):  # all together, then the first group alone
            raise CheckError("output y changed")
        return compare(*models, **given)

    monkeypatch.setattr(arranging, "compare", wrong)
    found = onnx_reap.reap(residual(), images(40), **FOURS).report.tiling
    assert len(found.unmoved) == 1
    assert "function changed" in next(iter(found.unmoved.values()))
    assert 0 < found.permuted < every.permuted


def test_layers_too_wide_for_a_repair_keep_their_zeros(monkeypatch):
    monkeypatch.setattr("onnx_reap.prune.refit.layerwise.WIDEST", 1)
    result = onnx_reap.reap(chain(), images(40), **FOURS)
    assert [note for note in result.report.notes if "too many inputs for its zeros" in note]
    for layer in result.report.tiling.layers:
        assert layer.error_after is None
        assert layer.zeros == 0.5


def test_layers_too_large_to_choose_tiles_are_told(monkeypatch):
    monkeypatch.setattr("onnx_reap.prune.sparsity.choose.MOST", 1.0)
    result = onnx_reap.reap(chain(), images(40), **TILES)
    assert [note for note in result.report.notes if "tiles of the best scores" in note]
    assert result.report.tiling.zeros == pytest.approx(0.5, abs=0.01)


def test_weights_in_another_file(tmp_path):
    onnx.save(residual(), tmp_path / "in.onnx", save_as_external_data=True, size_threshold=64)
    result = onnx_reap.reap(tmp_path / "in.onnx", images(40), **FOURS)
    result.save(tmp_path / "out.onnx")
    alone = onnx_reap.reap(residual(), images(40), **FOURS)
    (want,), (have,) = (
        run(model, {"x": images(4)}) for model in (alone.model, onnx.load(tmp_path / "out.onnx"))
    )
    np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5)


def test_no_layer_fits():
    n = Net({"x": ("N", 3, 8, 8)})
    model = n.model(n.head(n.block("x", 3, 5), 5, 3))
    with pytest.raises(ReapError, match=r"no layer can have 2:4 zeros.*3 input channels"):
        onnx_reap.reap(model, images(40), **FOURS)


def test_where_all_is_excluded_the_pattern_is_not_to_blame():
    with pytest.raises(ReapError, match=r"excluded by --exclude.*try: loosen --exclude"):
        onnx_reap.reap(residual(), images(40), exclude=["*"], **TILES)


def test_tiles_that_come_to_fewer_zeros_are_told():
    def report(tile: str, share: float):
        given = {"tile": tile, "tile_sparsity": share, "refit": False}
        return onnx_reap.reap(residual(), images(40), **given).report

    few = report("32x32", 0.1)
    assert few.tiling.zeros < 0.08
    assert any(f"{few.tiling.zeros:.1%} of the weights" in note for note in few.notes)
    assert not any("tile-sparsity" in note for note in report("8x1", 0.5).notes)


@pytest.mark.parametrize(
    "given, says",
    [
        ({"tile": "8x1"}, "--tile requires --tile-sparsity"),
        ({"tile_sparsity": 0.5}, "--tile-sparsity requires --tile"),
        (TILES | FOURS, "--tile and --pattern"),
        ({"tile": "8", "tile_sparsity": 0.5}, "--tile: invalid value"),
        ({"tile": "8x1", "tile_sparsity": 1.5}, "--tile-sparsity: invalid value"),
        ({"pattern": "1:4"}, "--pattern: invalid value"),
        ({"permutation": False}, "--no-permutation"),
        (FOURS | {"max_drop": 0.01}, "--max-drop"),
        (FOURS | {"lossless": True}, "--lossless"),
    ],
)
def test_what_makes_no_sense_is_refused(given, says):
    with pytest.raises(UsageError, match=says):
        onnx_reap.reap(chain(), images(40), **given)


def test_a_sweep_takes_no_pattern():
    with pytest.raises(UsageError, match="--pattern"):
        onnx_reap.sweep(chain(), images(40), **FOURS)


@pytest.mark.parametrize(
    "flags",
    [
        ["--tile", "8x1"],
        ["--tile-sparsity", "0.5"],
        ["--tile", "8by1", "--tile-sparsity", "0.5"],
        ["--pattern", "3:4"],
        ["--pattern", "2:4", "--tile", "8x1", "--tile-sparsity", "50%"],
        ["--pattern", "2:4", "--max-drop", "1%"],
        ["--pattern", "2:4", "--lossless"],
        ["--no-permutation"],
    ],
)
def test_the_command_refuses_too(flags, tmp_path, capsys):
    onnx.save(chain(), tmp_path / "in.onnx")
    assert main([str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx"), *flags]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "out.onnx").exists()


def test_a_plan_is_replayed_without_zeros(tmp_path, capsys):
    onnx.save(chain(), tmp_path / "in.onnx")
    flags = ["--from-plan", str(tmp_path / "p.json"), "--pattern", "2:4"]
    assert main([str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx"), *flags]) == 2
    assert "--pattern" in capsys.readouterr().err


def test_the_command_reports(tmp_path, capsys):
    onnx.save(residual(), tmp_path / "in.onnx")
    np.save(tmp_path / "x.npy", images(40))
    paths = {name: str(tmp_path / name) for name in ("in.onnx", "out.onnx", "x.npy", "r.json")}
    flags = ["--data", paths["x.npy"], "--report", paths["r.json"], "--tile", "4x1"]
    assert main([paths["in.onnx"], paths["out.onnx"], *flags, "--tile-sparsity", "50%"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "changed places" in shown
    assert "4x1 tiles" in shown
    told = json.loads((tmp_path / "r.json").read_text())["tiling"]
    assert told["score_lost"] < told["score_lost_unpermuted"]
    want, have = (
        run(onnx.load(paths[name]), {"x": images(4)})[0] for name in ("in.onnx", "out.onnx")
    )
    assert 0 < np.abs(want - have).max() < np.abs(want).max()


@pytest.mark.parametrize("pattern", [FOURS, TILES])
def test_parameters_are_those_of_the_file_biases_of_the_repair_included(pattern):
    result = onnx_reap.reap(chain(), images(40), **pattern)
    count = sum(v.size for v in weights_of(result.model).values() if v.dtype == np.float32)
    assert result.report.after.params == count
    assert count > result.report.before.params  # convolutions in front of BatchNormalization


def test_a_weight_that_is_an_output_keeps_its_numbers():
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.node("Relu", n.conv("x", 3, 16))
    weight = n.random(16, 16, 3, 3, name="told", scale=0.1)
    h = n.node("Relu", n.node("Conv", h, weight, pads=[1] * 4, name="telling"))
    model = n.model(n.head(n.conv(h, 16, 8), 8, 5))
    model.graph.output.append(oh.make_tensor_value_info("told", 1, [16, 16, 3, 3]))
    result = onnx_reap.reap(model, images(40), **FOURS)
    told = run(result.model, {"x": images(2)})[1]
    np.testing.assert_array_equal(told, weights_of(model)["told"])
    assert "is an output" in {r.node: r.reason for r in result.report.tiling.dense}["telling"]
    assert result.report.tiling.layers


def test_a_weight_that_a_branch_reads_too_keeps_its_numbers():
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.node("Relu", n.conv("x", 3, 16))
    weight = n.random(16, 16, 3, 3, name="both", scale=0.1)
    h = n.node("Conv", h, weight, pads=[1] * 4, name="outside")
    out = oh.make_tensor_value_info("in_body", onnx.TensorProto.FLOAT, None)
    body = oh.make_graph(
        [oh.make_node("Conv", [h, "both"], ["in_body"], pads=[1] * 4)], "body", [], [out]
    )
    h = n.node("If", n.constant(np.array(True)), then_branch=body, else_branch=body)
    model = n.model(n.head(n.node("Relu", n.conv(h, 16, 8)), 8, 5))
    result = onnx_reap.reap(model, images(40), **FOURS)
    np.testing.assert_array_equal(weights_of(result.model)["both"], weights_of(model)["both"])
    # The branch is taken always, so its layer is one of the model's.
    assert "share" in {row.node: row.reason for row in result.report.tiling.dense}["outside"]


def test_tiles_wider_than_a_layer_end_where_it_does():
    made = [
        onnx_reap.reap(chain(), images(40), tile=tile, tile_sparsity=0.5, permutation=False).model
        for tile in ("4x16", "4x5000")
    ]
    first, second = (weights_of(model) for model in made)
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])
