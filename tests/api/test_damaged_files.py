"""Whatever is wrong with a file: a verified model or one line that says what, and no other end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from damaging import Pick, damage_bytes, damage_head, damage_proto, models
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from net import Net
from small_models import chain

import onnx_reap
from onnx_reap.cli.main import main
from onnx_reap.errors import ReapError

MODELS = models()
QUICK = settings(
    max_examples=150,
    deadline=10_000,  # milliseconds; a hundred times what an example takes
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def workplace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def try_out(source: Path | onnx.ModelProto) -> list[str]:
    """Prune and inspect; return the refusals. What is raised otherwise, is."""
    refused: list[str] = []
    with noted(refused):
        onnx_reap.reap(source, ratio=0.5, criterion="l1", refit=False)
    with noted(refused):
        onnx_reap.inspect(source)
    return refused


@contextlib.contextmanager
def noted(refused: list[str]) -> Iterator[None]:
    try:
        yield
    except ReapError as error:
        assert "\n" not in str(error)
        refused.append(str(error))


def try_out_file(data: bytes, folder: Path) -> None:
    (folder / "in.onnx").write_bytes(data)
    try_out(folder / "in.onnx")
    assert [path.name for path in folder.iterdir()] == ["in.onnx"]
    assert (folder / "in.onnx").read_bytes() == data


@contextlib.contextmanager
def refusal(*parts: str) -> Iterator[None]:
    """Demand that a block is refused, and that the line has some parts."""
    with pytest.raises(ReapError) as refused:
        yield
    assert all(part in str(refused.value) for part in parts), str(refused.value)


# Any damage


def picks(data: st.DataObject) -> Pick:
    def pick(n: int) -> int:
        assume(n > 0)  # earlier damage may leave nothing to pick from
        return data.draw(st.integers(0, n - 1))

    return pick


def test_undamaged_models_are_pruned_and_inspected():
    for model in MODELS.values():
        assert try_out(model) == []


@QUICK
@given(kind=st.sampled_from(sorted(MODELS)), data=st.data())
def test_damaged_bytes(kind: str, data: st.DataObject, workplace: Path):
    whole = MODELS[kind].SerializeToString(deterministic=True)
    damage = data.draw(st.sampled_from([damage_bytes, damage_head]))
    try_out_file(damage(whole, picks(data)), workplace)


@QUICK
@given(kind=st.sampled_from(sorted(MODELS)), count=st.integers(1, 2), data=st.data())
def test_damaged_parts(kind: str, count: int, data: st.DataObject, workplace: Path):
    model = onnx.ModelProto()
    model.CopyFrom(MODELS[kind])
    for _ in range(count):
        damage_proto(model, picks(data))
    before = model.SerializeToString(deterministic=True)
    try_out(model)
    assert model.SerializeToString(deterministic=True) == before
    assert list(workplace.iterdir()) == []


# What such damage brought to light


def inspected(model: onnx.ModelProto) -> None:
    onnx_reap.inspect(model)


def file_of(model: onnx.ModelProto, old: bytes, new: bytes) -> Path:
    """Write a model's file with other bytes somewhere."""
    data = model.SerializeToString()
    assert old in data and len(old) == len(new)
    Path("in.onnx").write_bytes(data.replace(old, new))
    return Path("in.onnx")


@pytest.mark.parametrize("in_node", [False, True])
def test_a_tensor_whose_data_does_not_fill_its_shape(in_node: bool):
    model = chain(8)
    tensor = model.graph.initializer[0]
    if in_node:
        model.graph.node.insert(0, oh.make_node("Constant", [], [tensor.name], value=tensor))
        tensor = model.graph.node[0].attribute[0].t
        del model.graph.initializer[0]
    name = tensor.name
    tensor.dims[0] = 9
    with refusal(f"tensor {name}", "864 bytes for float [9, 3, 3, 3]", "expected: 972 bytes"):
        inspected(model)
    tensor.dims[0] = -8
    with refusal(f"tensor {name} has a negative size", "[-8, 3, 3, 3]"):
        inspected(model)
    tensor.dims[0] = 8
    tensor.ClearField("raw_data")
    tensor.float_data.extend([1.0] * 5)
    with refusal(f"tensor {name}: its data doesn't fill its shape", "size 5"):
        inspected(model)


@pytest.mark.parametrize("kind", ["FLOAT16", "BFLOAT16", "DOUBLE", "INT4", "BOOL", "UINT8"])
def test_whole_tensors_of_any_type_are_read(kind: str):
    model = chain(8)
    number = getattr(onnx.TensorProto, kind)
    values = np.arange(2, dtype=np.int64)
    extra = oh.make_tensor("extra", number, [2], values.tolist())
    raw = onnx.TensorProto(name="raw", data_type=number, dims=[3])
    raw.raw_data = bytes({"DOUBLE": 24, "INT4": 2, "BOOL": 3, "UINT8": 3}.get(kind, 6))
    model.graph.initializer.extend([extra, raw])
    inspected(model)
    model.graph.initializer[-1].raw_data += b"0"
    with refusal("tensor raw: its data doesn't fill its shape"):
        inspected(model)


def test_data_types_that_do_not_exist():
    model = chain(8)
    model.graph.initializer[0].data_type = 99
    with refusal("tensor c0 is of an unknown type", "got: data type 99"):
        inspected(model)
    model.graph.initializer[0].data_type = 0
    with refusal("tensor c0 is of an unknown type", "got: data type 0"):
        inspected(model)
    model = chain(8)
    model.graph.output[0].type.tensor_type.elem_type = 99
    with refusal("tensor gemm11_y is of an unknown type", "got: data type 99"):
        inspected(model)
    model = chain(8)
    model.graph.input[0].type.tensor_type.elem_type = 0
    with refusal("input x: no element type"):
        inspected(model)
    model = chain(8)
    model.graph.node.insert(0, oh.make_node("Constant", [], ["nothing"]))
    model.graph.node[0].attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    with refusal("of an attribute", "of an unknown type"):
        inspected(model)


def test_text_as_bytes():
    model = chain(8)
    model.graph.initializer[0].data_type = onnx.TensorProto.STRING
    with refusal("tensor c0 holds text as bytes"):
        inspected(model)


def test_names_that_are_no_text():
    with refusal("in.onnx: a ", "name is no text", r"\xb1"):
        onnx_reap.inspect(file_of(chain(8), b"conv0_y", b"conv\xb1_y"))
    model = chain(8)
    model.graph.node[0].attribute.append(oh.make_attribute("auto_pad", b"\xb1"))
    with refusal("an attribute of node conv0 is no text", "auto_pad"):
        inspected(model)


def test_nodes_in_a_circle():
    model = chain(8)
    model.graph.node[0].input[0] = model.graph.node[2].output[0]
    with refusal("read what is made of their own outputs", "conv0", "relu2", "without cycles"):
        inspected(model)


def test_a_constant_that_gives_nothing():
    model = chain(8)
    model.graph.node.insert(0, oh.make_node("Constant", [], [], value_float=1.0))
    with refusal("onnxruntime can't load the model"):
        inspected(model)


def test_keepdims_that_is_neither_0_nor_1_is_what_onnxruntime_takes_it_for():
    n = Net({"x": ("N", 3, 8, 8)})
    pooled = n.node("ReduceMean", n.block("x", 3, 8), axes=[2, 3], keepdims=3)
    assert try_out(n.model(n.gemm(pooled, 8, 4))) == []


def test_inputs_of_impossible_sizes():
    for batch, size in ((2**40, 8), (2, 2**31)):
        with refusal("input x: too large", "x float32", " GB", "expected: at most 2.1 GB"):
            inspected(chain(8, batch=batch, size=size))
    with refusal("input x: too large"):
        onnx_reap.inspect(chain(8, size="S"), input_shapes={"x": (1, 3, 2**20, 2**20)})


def test_weights_of_a_constant_that_lie_elsewhere():
    model = chain(8)
    tensor = model.graph.initializer[0]
    node = oh.make_node("Constant", [], [tensor.name], value=tensor)
    model.graph.node.insert(0, node)
    del model.graph.initializer[0]
    held = model.graph.node[0].attribute[0].t
    onnx.external_data_helper.set_external_data(held, "gone.data")
    held.ClearField("raw_data")
    with refusal("tensor c0: its data lies in another file", "try: pass the path"):
        inspected(model)


def test_bodies_are_looked_at_too():
    n = Net({"x": ("N", 3, 8, 8)})
    h = n.block("x", 3, 8)
    broken = oh.make_tensor("inner", onnx.TensorProto.FLOAT, [1], [0.0])
    broken.dims[0] = 3
    ends = [oh.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None)]
    body = oh.make_graph([oh.make_node("Add", [h, "inner"], ["z"])], "body", [], ends, [broken])
    model = n.model(n.head(h, 8, 4))
    condition = oh.make_tensor("yes", onnx.TensorProto.BOOL, [], [True])
    model.graph.initializer.append(condition)
    model.graph.node.append(oh.make_node("If", ["yes"], ["w"], then_branch=body, else_branch=body))
    with refusal("tensor inner"):
        inspected(model)


def sparse(model: onnx.ModelProto, indices: list[int]) -> onnx.ModelProto:
    """Store the first bias of zeros and twos as sparse, with some indices."""
    tensor = model.graph.initializer[1]
    values = onnx.numpy_helper.from_array(np.full(4, 2, np.float32), tensor.name)
    places = onnx.numpy_helper.from_array(np.array(indices, np.int64), "places")
    stored = onnx.SparseTensorProto(values=values, indices=places, dims=tensor.dims)
    model.graph.sparse_initializer.append(stored)
    del model.graph.initializer[1]
    return model


def test_sparse_tensors_with_wrong_indices():
    size = chain(8).graph.initializer[1].dims[0]
    with refusal("sparse tensor c1 is broken", "got: indices outside", "expected: indices within"):
        inspected(sparse(chain(8), [0, 1, 2, size]))
    with refusal("sparse tensor c1 is broken", "got: indices outside"):
        inspected(sparse(chain(8), [-1, 1, 2, 3]))
    with refusal("sparse tensor c1 is broken", "got: 4 values, indices int64 [3]"):
        inspected(sparse(chain(8), [0, 1, 2]))
    inspected(sparse(chain(8), [0, 1, 2, 3]))


def test_nodes_that_lack_inputs():
    model = chain(8)
    del model.graph.node[0].input[1:]
    with refusal("node conv0 lacks inputs", "got: 1 of Conv", "expected: at least 2"):
        inspected(model)


def test_tensors_that_two_nodes_make():
    model = chain(8)
    model.graph.node.append(model.graph.node[0])
    model.graph.node[-1].name = "again"
    with refusal("two nodes make one tensor", "got: conv0_y of conv0 and of again"):
        inspected(model)


def test_a_reference_to_an_attribute_outside_of_functions():
    model = chain(8)
    model.graph.node[0].attribute[0].ref_attr_name = "some"
    with refusal("refers to an attribute of a function", "got: some, outside"):
        inspected(model)


def test_a_call_without_outputs():
    model = chain(8)
    called = oh.make_function(
        "own", "F", ["a"], ["b"], [oh.make_node("Relu", ["a"], ["b"])], model.opset_import
    )
    model.functions.append(called)
    model.opset_import.append(oh.make_opsetid("own", 1))
    model.graph.node.append(oh.make_node("F", ["x"], [], domain="own"))
    with refusal("onnxruntime can't load the model"):
        inspected(model)


@pytest.mark.parametrize("heads", [None, 0, "two", [2]])
def test_a_call_of_another_domain_with_attributes_that_are_wrong(heads):
    net = Net({"x": ("N", 7, 16)})
    given = {} if heads is None else {"num_heads": heads}
    y = net("MultiHeadAttention", "x", "x", "x", domain="com.microsoft", **given)
    with refusal("onnxruntime can't load the model"):
        inspected(net.model(net("MatMul", y, net.weight(16, 4)), check=False))


def test_texts_beside_the_graph_that_are_none():
    model = chain(8)
    model.producer_name = "somebody"
    with refusal("producer_name is no text", r"\xb1", "expected: UTF-8"):
        onnx_reap.inspect(file_of(model, b"somebody", b"someb\xb1dy"))


def test_operator_sets_that_can_not_be():
    for version in (0, -1, 2**40):
        model = chain(8)
        model.opset_import[0].version = version
        with refusal("an operator set that can't be", f"got: version {version}"):
            inspected(model)


def test_shapes_that_onnx_can_not_infer_where_a_call_asks_for_them():
    net = Net({"x": ("N", 7, 16)})
    turned = net("FusedMatMul", "x", net.weight(7, 4), transA=1, domain="com.microsoft")
    model = net.model(turned, check=False)
    model.graph.node.append(oh.make_node("MatMul", ["x", "x"], []))
    with refusal("onnxruntime can't load the model"):
        inspected(model)
    del model.graph.node[-1]
    doubled = oh.make_function(
        "own", "F", ["a"], ["b"], [oh.make_node("Relu", ["a"], ["b"])], model.opset_import
    )
    model.functions.extend([doubled, doubled])
    model.opset_import.append(oh.make_opsetid("own", 1))
    with refusal("onnxruntime can't load the model"):
        inspected(model)


def test_names_of_weight_files_that_no_file_can_have(workplace: Path):
    for name in ("a\0b", "a" * 3000):
        model = chain(8)
        tensor = model.graph.initializer[0]
        onnx.external_data_helper.set_external_data(tensor, name)
        tensor.ClearField("raw_data")
        (workplace / "in.onnx").write_bytes(model.SerializeToString())
        assert main(["in.onnx", "out.onnx"]) == 1
        assert not (workplace / "out.onnx").exists()


def test_float_types_that_are_mixed_are_not_taken_for_a_lack_of_kernels():
    model = chain(8)
    tensor = next(t for t in model.graph.initializer if t.name == model.graph.node[-1].input[1])
    halves = onnx.numpy_helper.to_array(tensor).astype(np.float16)
    tensor.CopyFrom(onnx.numpy_helper.from_array(halves, tensor.name))
    with refusal("neither onnxruntime nor onnx.checker takes the model"):
        inspected(model)
