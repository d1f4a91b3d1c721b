"""Models whose weights lie beside the proto: the same model, and nothing is kept twice."""

from __future__ import annotations

import gc
import pickle
import weakref
from pathlib import Path

import numpy as np
import onnx
import pytest
from net import Net
from small_models import chain, images, run, weights_of

import onnx_reap
from onnx_reap.graph.ir.model import Model
from onnx_reap.onnxio.light_model import SMALLEST, LightModel, without_weights
from onnx_reap.onnxio.load import load
from onnx_reap.onnxio.save import model_files


@pytest.fixture
def light() -> LightModel:
    return LightModel(*without_weights(chain(24)))


def test_large_weights_lie_beside_the_proto(light):
    assert max(len(t.raw_data) for t in light.graph.initializer) < SMALLEST
    assert light.external().keys() == light.weights.keys() != set()
    assert light.whole() == chain(24)


def test_constants_are_read_wherever_they_lie(light):
    for tensor in chain(24).graph.initializer:
        np.testing.assert_array_equal(
            light.constants[tensor.name], onnx.numpy_helper.to_array(tensor)
        )


def test_a_graph_holds_the_very_arrays(light):
    constants = Model(light).constants()
    assert all(constants[name].values is array for name, array in light.weights.items())
    again = Model(light).to_light()
    assert all(again.weights[name] is array for name, array in light.weights.items())


def test_models_are_pickled_with_their_weights(light):
    assert pickle.loads(pickle.dumps(light)).whole() == light.whole()


def test_weights_of_a_freed_graph_go_at_once(light):
    model = Model(light)
    name = next(iter(light.weights))
    changed = light.weights[name] + 1
    seen = weakref.ref(changed)
    model.constants()[name].values = changed
    gc.disable()
    try:
        model.free_weights()
        del model, changed
        assert seen() is None
    finally:
        gc.enable()


def test_mapped_weights_can_not_be_written_to(tmp_path: Path):
    onnx.save(chain(24), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    model = load(tmp_path / "m.onnx")
    assert len(model.sources) == 1
    assert not any(array.flags.writeable for array in model.weights.values())
    assert model.whole().graph.initializer[0].raw_data == chain(24).graph.initializer[0].raw_data


def test_a_model_of_one_file_stays_one(tmp_path: Path):
    given = chain(24)
    given.graph.initializer[0].doc_string = "the first"
    onnx.save(given, tmp_path / "m.onnx")
    model = load(tmp_path / "m.onnx")
    assert model.external().keys() == light_names(given) != set()
    assert model.size == (tmp_path / "m.onnx").stat().st_size
    (written,) = model_files(tmp_path / "out.onnx", model).values()
    assert onnx.ModelProto.FromString(written) == given


def light_names(model: onnx.ModelProto) -> set[str]:
    return {t.name for t in model.graph.initializer if len(t.raw_data) >= SMALLEST}


def test_weights_kept_as_lists_of_numbers_are_read():
    given = chain(24)
    for tensor in given.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.helper.make_tensor(tensor.name, 1, values.shape, values.ravel()))
    model = load(given)
    assert model.weights.keys() == light_names(chain(24))
    for name, values in weights_of(chain(24)).items():
        np.testing.assert_array_equal(model.constants[name], values)


@pytest.mark.parametrize("version", [3, 8])
@pytest.mark.parametrize("beside", [False, True])
def test_weights_that_nothing_reads_are_no_obstacle(tmp_path: Path, version: int, beside: bool):
    given = chain(24)
    given.ir_version = version
    given.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((32, 32)), "unread"))
    if version == 3:
        given.graph.input.extend(
            onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims)
            for t in given.graph.initializer
        )
    path = tmp_path / "m.onnx"
    onnx.save(given, path, save_as_external_data=beside, size_threshold=0)
    result = onnx_reap.reap(path, images(8), target_macs=0.7, joint_refit=0, tune=0)
    whole, pruned = (run(m, {"x": images(2)})[0] for m in (load(path).whole(), result.model))
    assert whole.shape == pruned.shape


@pytest.mark.parametrize("beside", [False, True])
def test_weights_that_are_only_outputs(tmp_path: Path, beside: bool):
    given = chain(24)
    table = onnx.numpy_helper.from_array(np.ones((32, 32), np.float32), "table")
    given.graph.initializer.append(table)
    given.graph.output.append(onnx.helper.make_tensor_value_info("table", 1, [32, 32]))
    path = tmp_path / "m.onnx"
    onnx.save(given, path, save_as_external_data=beside, size_threshold=0)
    result = onnx_reap.reap(path, images(8), target_macs=0.7, joint_refit=0, tune=0)
    assert (run(result.model, {"x": images(2)})[1] == 1).all()


def test_sizes_that_shape_inference_reads_stay_in_the_proto():
    """onnxruntime refuses a Split whose sizes come in another way."""
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.block("x", 3, 128)
    sizes = n.constant(np.ones(128, np.int64))
    names = [f"part{i}" for i in range(128)]
    n.nodes.append(onnx.helper.make_node("Split", [h, sizes], names, axis=1))
    model = n.model(n.head(n.block(n.node("Concat", *names, axis=1), 128, 8), 8, 4))
    light = load(model)
    assert light.weights and sizes not in light.weights
    onnx_reap.reap(model, images(8), target_macs=0.7, joint_refit=0, tune=0)


def test_a_name_that_occurs_twice_stays_in_the_proto():
    given = chain(24)
    given.graph.initializer.append(given.graph.initializer[0])
    name = given.graph.initializer[0].name
    assert name in load(chain(24)).weights
    assert load(given).weights.keys() == load(chain(24)).weights.keys() - {name}
    onnx_reap.reap(given, images(8), target_macs=0.7, joint_refit=0, tune=0)
