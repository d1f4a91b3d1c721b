"""Models whose weights lie beside the proto: the same model, and nothing is kept twice."""

from __future__ import annotations

import gc
import pickle
import weakref
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_models import chain

from onnx_reap.graph.ir.model import Model
from onnx_reap.onnxio.light_model import SMALLEST, LightModel, without_weights
from onnx_reap.onnxio.load import load


@pytest.fixture
def light() -> LightModel:
    return without_weights(chain(24))


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
