"""Loading and writing models, apart from any cut."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from net import Net, sandwich
from onnx import helper, numpy_helper
from oracle import CPU, study

from onnx_reap.errors import ReapError
from onnx_reap.graph.edit.weights import remember, set_layer
from onnx_reap.graph.ir.export import tensor_proto
from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.probe import fold_constants
from onnx_reap.graph.ir.reading import is_floating
from onnx_reap.onnxio.load import load


def _plain() -> onnx.ModelProto:
    return sandwich(lambda net, x: net("Relu", x))


def test_writing_back_is_the_same_model():
    proto = _plain()
    again = Model(proto).to_proto()
    assert again.graph.node == proto.graph.node
    assert {t.name: t for t in again.graph.initializer} == {
        t.name: t for t in proto.graph.initializer
    }
    assert again.SerializeToString() == Model(proto).to_proto().SerializeToString()


@pytest.mark.parametrize("external", [False, True])
def test_load(tmp_path, external):
    path = tmp_path / "model.onnx"
    onnx.save(_plain(), path, save_as_external_data=external, size_threshold=0)
    written = Model(load(path)).to_proto()
    assert all(t.data_location == onnx.TensorProto.DEFAULT for t in written.graph.initializer)
    assert numpy_helper.to_array(written.graph.initializer[0]).size


def test_load_refuses_a_proto_without_its_weights(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(_plain(), path, save_as_external_data=True, size_threshold=0)
    with pytest.raises(ReapError, match="weights lie in other files"):
        load(onnx.load(path, load_external_data=False))


@pytest.mark.parametrize("content", [None, b"", b"no model at all"])
def test_load_refuses_what_is_no_model(tmp_path, content):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ReapError, match="model file"):
        load(path)


def test_training_information_is_dropped():
    """It would initialise weights of the old shapes."""
    proto = _plain()
    proto.training_info.add()
    assert not Model(proto).to_proto().training_info


def test_keys_are_unique():
    proto = _plain()
    for node, name in zip(proto.graph.node, ("x", "", "x"), strict=True):
        node.name = name
    model = Model(proto)
    assert [model.keys[id(node)] for node in model.nodes] == ["x", "Relu_1", "x#2"]


def test_unused_names():
    model = Model(_plain())
    assert model.unused("new") == "new"
    assert model.unused("new") == "new_2"
    assert model.unused("a_y") == "a_y_2"


def test_a_part_has_what_is_called_like_the_states_of_a_layer():
    net = Net({"x": ("N", 3)})
    h = net("Relu", "x", name="enc")
    named = net("Neg", h, outputs=["enc:states"])
    model = Model(net.model(net("Abs", named, name="z")))
    part = model.part({"x": np.dtype(np.float32)}, ["z_y"])
    assert [node.op_type for node in part.proto.graph.node] == ["Relu", "Neg", "Abs"]


def test_insert_in_front_and_behind():
    model = Model(_plain())
    relu = model.nodes[1]
    for behind in (False, True):
        model.insert(gs.Node("Neg", "a", {}, [], []), relu, behind=behind)
    assert [node.op for node in model.nodes] == ["Conv", "Neg", "Relu", "Neg", "Conv"]
    assert [node.name for node in model.nodes] == ["a", "a_2", "relu1", "a_3", "z"]


def test_constants_are_folded_once_and_for_all():
    net = Net({"x": ("N", 3, 6, 6)})
    weight = net("Mul", net("Transpose", net.weight(8, 3, 1, 1), perm=[0, 1, 3, 2]), np.float32(2))
    shape = net("Concat", net("Shape", net.weight(8, 1)), np.array([1, 1]), axis=0)
    y = net("Add", net("Conv", "x", weight, name="a"), net("Expand", np.float32(1), shape))
    model = Model(net.model(y, check=False))
    fold_constants(model, CPU)
    assert [node.op for node in model.nodes] == ["Conv", "Add"]


def test_random_numbers_are_not_folded():
    net = Net({"x": ("N", 3, 6, 6)})
    model = Model(net.model(net("Add", "x", net("RandomNormal", shape=[3, 1, 1]))))
    fold_constants(model, CPU)
    assert [node.op for node in model.nodes] == ["RandomNormal", "Add"]


@pytest.mark.parametrize(
    ("kind", "floating"),
    [
        (onnx.TensorProto.FLOAT16, True),
        (onnx.TensorProto.BFLOAT16, True),
        (onnx.TensorProto.DOUBLE, True),
        (onnx.TensorProto.FLOAT8E4M3FN, True),
        (onnx.TensorProto.INT64, False),
        (onnx.TensorProto.BOOL, False),
    ],
)
def test_floating_types(kind, floating):
    net = Net({"x": ("N", 3, 6, 6)})
    proto = net.model(net("Add", "x", net("Cast", "t", to=1)), check=False)
    proto.graph.initializer.append(helper.make_tensor("t", kind, [1], [1]))
    model = Model(proto)
    constant = model.constants()["t"]
    assert is_floating(constant) is floating
    assert tensor_proto(constant).data_type == kind


def test_half_precision():
    proto = sandwich(lambda net, x: net("Cast", net("Relu", x), to=1))
    for tensor in proto.graph.initializer:
        if tensor.name in ("c0", "c1"):
            half = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    studied = study(proto)
    assert [(g.name, g.width) for g in studied.groups] == [("a", 8)]
    cut = studied.cut(studied.groups[0].units[:4])
    types = {t.name: t.data_type for t in cut.graph.initializer}
    assert types["c0"] == types["c1"] == onnx.TensorProto.FLOAT16
    assert types["c2"] == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_samples_are_counted_wherever_outputs_have_the_batch(order):
    """Text recognisers return (steps, batch, classes)."""
    net = Net({"x": ("N", 3, 8)})
    x = net("Conv", "x", net.weight(4, 3, 1), name="a")
    studied = study(net.model(net("Transpose", x, perm=[*order, 2])))
    assert studied.probe.batch == 2
    assert studied.macs.at(studied.widths) == 4 * 3 * 8


def _folded(net, y):
    model = Model(net.model(y, check=False))
    fold_constants(model, CPU)
    return model


def test_what_grows_is_not_folded():
    """An expanded scalar stays one; the shape that it is expanded to is still folded."""
    net = Net({"x": ("N", 3, 64, 64)})
    size = net("Shape", net.weight(64, 64, 9), end=2)
    shape = net("Concat", np.array([1, 3]), size, axis=0)
    large = net("Expand", np.float32(1), shape)
    model = _folded(net, net("Add", "x", large))
    assert [node.op for node in model.nodes] == ["Expand", "Add"]
    assert sum(constant.values.nbytes for constant in model.constants().values()) < 100


def test_expanded_weights_are_folded():
    net = Net({"x": ("N", 64, 6, 6)})
    weight = net("Expand", net.weight(1, 1, 3, 3), np.array([64, 64, 3, 3]))
    model = _folded(net, net("Conv", "x", weight))
    assert [node.op for node in model.nodes] == ["Conv"]


def test_sequences_are_not_folded():
    net = Net({"x": ("N", 3, 6, 6)})
    inserted = net("SequenceInsert", net("SequenceEmpty"), "x")
    model = _folded(net, net("ConcatFromSequence", inserted, axis=0))
    assert [node.op for node in model.nodes][:2] == ["SequenceEmpty", "SequenceInsert"]


def test_a_model_goes_back_to_what_is_remembered_and_forth_again():
    """A refit changes constants, gives layers a bias, and puts additions behind products."""
    net = Net({"x": ("N", 6)})
    h = net.node("Relu", net.node("MatMul", "x", net.random(6, 8)))
    case = study(net.model(net.node("Gemm", h, net.random(8, 4))))
    model, (product, dense) = case.model, case.flow.linears

    def refit() -> bytes:
        for layer, shape in ((product, (6, 8)), (dense, (8, 4))):
            weight = np.full(shape, 0.5, np.float32)
            assert set_layer(model, layer, weight, np.arange(shape[1], dtype=np.float64))
        return model.to_proto().SerializeToString()

    before, undo = model.to_proto().SerializeToString(), remember(model)
    after = refit()
    redo = remember(model)
    undo()
    assert model.to_proto().SerializeToString() == before
    redo()
    assert model.to_proto().SerializeToString() == after
    undo()
    assert refit() == after
