"""Calls of functions stand as nodes that compute the same, and come back as calls."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from net import Net
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from small_models import run

from onnx_reap.graph.ir.model import Model
from onnx_reap.graph.ir.probe import fold_constants
from onnx_reap.onnxio.functions import Functions

RNG = np.random.default_rng(0)
MICROSOFT = "com.microsoft"


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def called(
    op: str,
    inputs: list[np.ndarray | None],
    *,
    domain: str = "",
    opset: int = 17,
    outputs: int = 1,
    skipped: tuple[int, ...] = (),
    **attributes: object,
) -> onnx.ModelProto:
    """A model of one call, whose first input is the model's."""
    names = [f"i{k}" if array is not None else "" for k, array in enumerate(inputs)]
    results = ["" if k in skipped else f"y{k}" for k in range(outputs)]
    node = helper.make_node(op, names, results, "call", domain=domain, **attributes)
    values = [helper.make_tensor_value_info(names[0], 1, inputs[0].shape)]
    ends = [onnx.ValueInfoProto(name=name) for name in results if name]
    weights = [
        numpy_helper.from_array(array, name)
        for array, name in zip(inputs[1:], names[1:], strict=True)
        if array is not None
    ]
    graph = helper.make_graph([node], "g", values, ends, weights)
    sets = [helper.make_opsetid("", opset)]
    sets += [helper.make_opsetid(domain, 1)] if domain else []
    return helper.make_model(graph, opset_imports=sets, ir_version=10)


X = floats(2, 5, 8)
IMAGE, KERNEL = floats(2, 4, 6, 6), floats(8, 4, 3, 3)
CONTRIB = {
    "bias gelu": ("BiasGelu", [X, floats(8)], {}),
    "fast gelu": ("FastGelu", [X], {}),
    "fast gelu, bias": ("FastGelu", [X, floats(8)], {}),
    "gelu": ("Gelu", [X], {}),
    "quick gelu": ("QuickGelu", [X], {"alpha": 1.5}),
    "conv": ("FusedConv", [IMAGE, KERNEL, floats(8)], {"activation": "Relu", "pads": [1] * 4}),
    "conv, sum": (
        "FusedConv",
        [IMAGE, KERNEL, floats(8), floats(2, 8, 4, 4)],
        {"activation": "Relu"},
    ),
    "conv, leaky": (
        "FusedConv",
        [IMAGE, KERNEL],
        {"activation": "LeakyRelu", "activation_params": [0.2]},
    ),
    "conv, clip": (
        "FusedConv",
        [IMAGE, KERNEL],
        {"activation": "Clip", "activation_params": [-0.5, 0.5]},
    ),
    "gemm": (
        "FusedGemm",
        [floats(3, 8), floats(4, 8), floats(4)],
        {"activation": "LeakyRelu", "activation_alpha": 0.3, "transB": 1, "alpha": 0.5},
    ),
    "matmul": ("FusedMatMul", [X, floats(6, 8)], {"transB": 1, "alpha": 0.25}),
    "skip": (
        "SkipLayerNormalization",
        [X, floats(2, 5, 8), floats(8), floats(8), floats(8)],
        {"epsilon": 1e-3},
    ),
    "skip, rms": (
        "SkipSimplifiedLayerNormalization",
        [X, floats(2, 5, 8), floats(8)],
        {"epsilon": 1e-3},
    ),
    "attention by one weight": (
        "Attention",
        [X, floats(8, 24), floats(24), np.array([[1] * 5, [1, 1, 1, 0, 0]], np.int32)],
        {"num_heads": 2},
    ),
    "attention by one weight, wider": (
        "Attention",
        [X, floats(8, 40), None, None, None, floats(1, 2, 5, 5)],
        {"num_heads": 2, "qkv_hidden_sizes": [12, 12, 16], "scale": 0.3},
    ),
    "attention": ("MultiHeadAttention", [X, floats(2, 6, 8), floats(2, 6, 8)], {"num_heads": 2}),
    "attention, bias": (
        "MultiHeadAttention",
        [X, floats(2, 6, 8), floats(2, 6, 8), floats(24), None, floats(1, 2, 5, 6)],
        {"num_heads": 2, "scale": 0.4},
    ),
}


@pytest.mark.parametrize("case", CONTRIB)
def test_operators_of_the_optimizer(case: str) -> None:
    op, inputs, attributes = CONTRIB[case]
    expanded_is_the_same(called(op, inputs, domain=MICROSOFT, **attributes), inputs[0])


def test_the_sum_that_a_skip_returns() -> None:
    inputs = [X, floats(2, 5, 8), floats(8), floats(8)]
    model = called(
        "SkipLayerNormalization", inputs, domain=MICROSOFT, outputs=4, skipped=(1, 2), epsilon=1e-3
    )
    expanded_is_the_same(model, X)


@pytest.mark.parametrize("kind", [onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16])
@pytest.mark.parametrize("case", ["matmul", "attention", "fast gelu", "skip, rms"])
def test_numbers_in_a_body_are_of_the_type_of_the_input(case: str, kind: int) -> None:
    op, inputs, attributes = CONTRIB[case]
    model = called(op, inputs, domain=MICROSOFT, **attributes)
    types = {
        f"i{k}": helper.make_tensor_type_proto(kind, array.shape) for k, array in enumerate(inputs)
    }
    nodes = Functions(model, lambda op: False, lambda _: types).expand(model.graph.node[0])
    given = [a for node in nodes if node.op_type == "Constant" for a in node.attribute]
    assert {a.t.data_type for a in given if a.name == "value"} == {kind}


def test_types_are_known_behind_calls_too() -> None:
    """Of operators of onnxruntime's onnx doesn't know what they return."""
    net = Net({"x": ("N", 5, 8)})
    y = "x"
    for _ in range(2):
        y = net("MultiHeadAttention", y, y, y, num_heads=2, domain=MICROSOFT)
        scales = net.weight(8), net.weight(8)
        y = net("SkipLayerNormalization", y, "x", *scales, domain=MICROSOFT)
        y = net("FusedMatMul", y, net.weight(8, 8), transB=1, domain=MICROSOFT)
    read = Model(net.model(y, check=False))
    assert not {node.domain for node in read.nodes} - {"", None}
    assert [node.op for node in read.nodes].count("Softmax") == 2


STANDARD = {
    "rms": ("RMSNormalization", 23, [X, floats(8)], {"epsilon": 1e-3}),
    "groups": ("GroupNormalization", 21, [IMAGE, floats(4), floats(4)], {"num_groups": 2}),
    "attention": (
        "Attention",
        23,
        [X, floats(2, 6, 8), floats(2, 6, 8)],
        {"q_num_heads": 4, "kv_num_heads": 4},
    ),
    "attention of groups": (
        "Attention",
        23,
        [X, floats(2, 6, 4), floats(2, 6, 4)],
        {"q_num_heads": 4, "kv_num_heads": 2, "is_causal": 1},
    ),
    "mean and variance": ("MeanVarianceNormalization", 13, [IMAGE], {"axes": [0, 2, 3]}),
}


@pytest.mark.parametrize("case", STANDARD)
def test_operators_that_are_functions(case: str) -> None:
    op, opset, inputs, attributes = STANDARD[case]
    model = called(op, inputs, opset=opset, **attributes)
    expanded_is_the_same(model, inputs[0], wanted=True)


def expanded_is_the_same(model: onnx.ModelProto, x: np.ndarray, *, wanted: bool = False) -> None:
    types = {
        tensor.name: helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        for tensor in model.graph.initializer
    } | {"i0": model.graph.input[0].type}
    nodes = Functions(model, lambda op: wanted, lambda _: types).expand(model.graph.node[0])
    assert nodes
    assert not {node.domain for node in nodes} - {""}
    other = onnx.ModelProto()
    other.CopyFrom(model)
    del other.graph.node[:]
    other.graph.node.extend(nodes)
    for a, b in zip(run(model, {"i0": x}), run(other, {"i0": x}), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("FusedConv", [IMAGE, KERNEL], {"activation": "Softplus"}),
        ("MultiHeadAttention", [floats(2, 5, 2, 3, 4), None, None], {"num_heads": 2}),
        ("FusedMatMul", [X, floats(8, 6)], {"transBatchA": 1}),
        ("NoSuchOperator", [X], {}),
    ],
)
def test_what_is_not_known_stays(op: str, inputs: list, attributes: dict) -> None:
    model = called(op, inputs, domain=MICROSOFT, **attributes)
    assert Functions(model, lambda op: True, lambda _: {}).expand(model.graph.node[0]) is None


def local(opset: int = 17, inner: int = 17) -> onnx.ModelProto:
    """Conv, and twice a function that holds a Conv and calls another one with an attribute."""
    leaky = helper.make_function(
        "local",
        "Leaky",
        ["x"],
        ["y"],
        [helper.make_node("LeakyRelu", ["x"], ["y"])],
        [helper.make_opsetid("", inner)],
        ["slope"],
    )
    attribute = leaky.node[0].attribute.add(name="alpha", type=onnx.AttributeProto.FLOAT)
    attribute.ref_attr_name = "slope"
    block = helper.make_function(
        "local",
        "Block",
        ["x", "w"],
        ["y"],
        [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
            helper.make_node("Leaky", ["c"], ["y"], domain="local", slope=0.2),
        ],
        [helper.make_opsetid("", inner), helper.make_opsetid("local", 1)],
    )
    nodes = [
        helper.make_node("Block", ["x", "w0"], ["a"], "first", domain="local"),
        helper.make_node("Block", ["a", "w1"], ["y"], "second", domain="local"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["N", 3, 6, 6])],
        [helper.make_tensor_value_info("y", 1, ["N", 4, 6, 6])],
        [
            numpy_helper.from_array(floats(*s), f"w{k}")
            for k, s in enumerate([(8, 3, 3, 3), (4, 8, 3, 3)])
        ],
    )
    sets = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=sets, functions=[block, leaky], ir_version=9)


def test_calls_of_local_functions() -> None:
    model, x = local(), {"x": floats(2, 3, 6, 6)}
    read = Model(model)
    assert [node.op for node in read.nodes] == ["Conv", "LeakyRelu"] * 2
    assert read.nodes[1].attrs["alpha"] == pytest.approx(0.2)
    for a, b in zip(run(model, x), run(read.to_light().whole(), x), strict=True):
        np.testing.assert_array_equal(a, b)


def test_untouched_calls_are_written_back() -> None:
    model = local()
    written = Model(model).to_file().whole()
    assert list(written.graph.node) == list(model.graph.node)
    assert list(written.functions) == list(model.functions)


def test_weights_of_a_call_may_change() -> None:
    read = Model(local())
    constants = read.constants()
    constants["w0"].values = constants["w0"].values[:6]
    constants["w1"].values = constants["w1"].values[:, :6]
    out = read.to_file().whole()
    onnx.checker.check_model(out, full_check=True)
    assert [node.op_type for node in out.graph.node] == ["Block", "Block"]
    assert run(out, {"x": floats(1, 3, 6, 6)})[0].shape == (1, 4, 6, 6)


def test_a_call_that_changed_inside_stands_as_its_nodes() -> None:
    read = Model(local())
    read.nodes[1].attrs["alpha"] = 0.5
    out = read.to_file().whole()
    assert [node.op_type for node in out.graph.node] == ["Conv", "LeakyRelu", "Block"]
    assert {f.name for f in out.functions} == {"Block", "Leaky"}
    read.nodes[3].attrs["alpha"] = 0.5
    assert not read.to_file().proto.functions


def test_bodies_of_another_opset_with_other_defaults_are_left_alone() -> None:
    soft = helper.make_function(
        "local",
        "Soft",
        ["x"],
        ["y"],
        [helper.make_node("Softmax", ["x"], ["y"])],
        [helper.make_opsetid("", 11)],
    )
    node = helper.make_node("Soft", ["x"], ["y"], domain="local")
    model = onnx.ModelProto(opset_import=[helper.make_opsetid("", 17)], functions=[soft])
    assert Functions(model, lambda op: True, lambda _: {}).expand(node) is None
    model.opset_import[0].version = 12
    assert Functions(model, lambda op: True, lambda _: {}).expand(node) is not None


def of_one_call(function: onnx.FunctionProto, results: list[str], *sets: str) -> onnx.ModelProto:
    """A model that calls one function of its own, which takes the model's input."""
    node = helper.make_node(function.name, ["x"], results, "call", domain="local")
    values = [helper.make_tensor_value_info(name, 1, ["N", 8]) for name in ("x", *results)]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    imports = [helper.make_opsetid("", 17)] + [helper.make_opsetid(d, 1) for d in ("local", *sets)]
    return helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=9)


def test_a_function_may_return_its_input() -> None:
    both = helper.make_function(
        "local",
        "Both",
        ["x"],
        ["x", "y"],
        [helper.make_node("Relu", ["x"], ["y"])],
        [helper.make_opsetid("", 17)],
    )
    model, x = of_one_call(both, ["a", "b"]), {"x": floats(2, 8)}
    read = Model(model)
    assert [node.op for node in read.nodes] == ["Relu", "Identity"]
    # Run by the reference, since onnxruntime refuses a model that has such a function.
    found = (ReferenceEvaluator(m).run(None, x) for m in (model, read.to_light().whole()))
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_body_of_a_domain_that_the_model_does_not_import_stays() -> None:
    quick = helper.make_function(
        "local",
        "Quick",
        ["x"],
        ["y"],
        [helper.make_node("ReduceSumInteger", ["x"], ["y"], domain=MICROSOFT)],
        [helper.make_opsetid(MICROSOFT, 1)],
    )
    for sets, nodes in (((), ["Quick"]), ((MICROSOFT,), ["ReduceSumInteger"])):
        assert [node.op for node in Model(of_one_call(quick, ["y"], *sets)).nodes] == nodes


def test_parts_with_others_in_between_stand_as_nodes() -> None:
    read = Model(local())
    read.insert(gs.Node("Relu", "between", inputs=[], outputs=[]), read.nodes[0], behind=True)
    out = read.to_file().whole()
    assert [node.op_type for node in out.graph.node] == ["Conv", "Relu", "LeakyRelu", "Block"]


def test_constants_that_only_folded_nodes_of_a_call_read_stay_in_the_file():
    """Half of the body follows from constants; the call comes back and needs them still."""
    parts = [
        helper.make_node("Mul", ["a", "b"], ["ab"], "product"),
        helper.make_node("Add", ["x", "ab"], ["y"], "sum"),
    ]
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "Shift", ["x", "a", "b"], ["y"], parts, sets[:1])
    model = called("Shift", [X, floats(8), floats(8)], domain="own")
    model.functions.append(function)
    graph = Model(model)
    fold_constants(graph, ["CPUExecutionProvider"])
    assert [node.op for node in graph.nodes] == ["Add"]
    written = graph.to_proto()
    assert [node.op_type for node in written.graph.node] == ["Shift"]
    for made, given in zip(run(written, {"i0": X}), run(model, {"i0": X}), strict=True):
        assert np.array_equal(made, given)
