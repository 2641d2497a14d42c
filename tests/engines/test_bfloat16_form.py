"""bfloat16 graphs on the CPU: what the rewritten form computes is float32 arithmetic, rounded after every operator."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trt_track.engines.bfloat16_form import rewrite_bfloat16
from trt_track.engines.numpy_dtypes import numpy_dtype
from trt_track.engines.onnxruntime_session import OnnxRuntimeSession
from trt_track.specs import GraphSpec, TensorSpec

BF16 = ml_dtypes.bfloat16
RANDOM = np.random.default_rng(3)
WEIGHT = RANDOM.standard_normal((8, 8)).astype(BF16)
SPEC = GraphSpec(
    "block", (TensorSpec("x", ("B", 8), "bfloat16"),), (TensorSpec("y", ("B", 8), "bfloat16"), TensorSpec("z", (8, "B"), "float32"))
)


def write_block(path):
    """Write y = (x @ w + x) * 3 and z = float(y)^T, all in bfloat16; 3 is a node's own constant."""
    three = numpy_helper.from_array(np.asarray(3, BF16), "three")
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Add", ["product", "x"], ["sum"]),
        helper.make_node("Constant", [], ["factor"], value=three),
        helper.make_node("Mul", ["sum", "factor"], ["y"]),
        helper.make_node("Transpose", ["y"], ["turned"], perm=[1, 0]),
        helper.make_node("Cast", ["turned"], ["z"], to=TensorProto.FLOAT),
    ]
    values = [
        helper.make_tensor_value_info(name, dtype, shape)
        for name, dtype, shape in (
            ("x", TensorProto.BFLOAT16, ["B", 8]),
            ("y", TensorProto.BFLOAT16, ["B", 8]),
            ("z", TensorProto.FLOAT, [8, "B"]),
        )
    ]
    graph = helper.make_graph(nodes, "block", values[:1], values[1:], [numpy_helper.from_array(WEIGHT, "weight")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path


def test_it_computes_what_a_gpu_would(tmp_path):
    x = RANDOM.standard_normal((5, 8)).astype(BF16)
    with OnnxRuntimeSession({"block": (SPEC, write_block(tmp_path / "m.onnx"))}) as session:
        given, y, z = session.empty((5, 8), "bfloat16"), session.empty((5, 8), "bfloat16"), session.empty((8, 5), "float32")
        session.upload(given, x)
        session.run("block", {"x": given}, {"y": y, "z": z})
    wide = x.astype(np.float32)
    product = (wide @ WEIGHT.astype(np.float32)).astype(BF16).astype(np.float32)
    expected = ((product + wide).astype(BF16).astype(np.float32) * 3).astype(BF16)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(z, expected.T.astype(np.float32))
    exact = (wide @ WEIGHT.astype(np.float32) + wide) * 3
    assert np.abs(exact - z.T).max() > 0  # it was rounded


BIASED = {
    "a bias": ([helper.make_node("Add", ["bias", "product"], ["y"])], ["y"]),
    "a bias, and the product is read again": (
        [helper.make_node("Add", ["product", "bias"], ["sum"]), helper.make_node("Mul", ["sum", "product"], ["y"])],
        ["product", "sum", "y"],
    ),
    "a table": ([helper.make_node("Add", ["product", "table"], ["y"])], ["product", "y"]),
}


@pytest.mark.parametrize(("nodes", "rounded"), BIASED.values(), ids=BIASED)
def test_a_product_and_its_bias_are_rounded_once_where_one_kernel_computes_both(tmp_path, nodes, rounded):
    bias, table = (RANDOM.standard_normal(shape).astype(BF16) for shape in ((8,), (4, 8)))
    weights = [numpy_helper.from_array(array, name) for name, array in (("weight", WEIGHT), ("bias", bias), ("table", table))]
    x, y = (helper.make_tensor_value_info(name, TensorProto.BFLOAT16, [4, 8]) for name in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "weight"], ["product"]), *nodes], "block", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), str(tmp_path / "m.onnx"))
    model = onnx.load_from_string(rewrite_bfloat16(tmp_path / "m.onnx"))
    casts = [node.input[0] for node in model.graph.node if node.op_type == "Cast" and node.output[0].endswith("/rounded")]
    assert [name.removesuffix("/exact").removesuffix("/wide") for name in casts] == rounded


def test_only_what_computes_is_rounded(tmp_path):
    model = onnx.load_from_string(rewrite_bfloat16(write_block(tmp_path / "m.onnx")))
    onnx.checker.check_model(model, full_check=True)
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    # in, three roundings of two casts, out, and the graph's own
    assert len(casts) == 1 + 3 * 2 + 1 + 1
    assert {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)} == {
        "x": 16,
        "y": 16,
        "z": 1,
    }


def test_a_graph_without_bfloat16_is_left_alone(tmp_path):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph), str(tmp_path / "m.onnx"))
    assert rewrite_bfloat16(tmp_path / "m.onnx") is None


@pytest.mark.parametrize(("name", "size"), [("bfloat16", 2), ("float16", 2), ("uint8", 1), ("bool", 1)])
def test_dtypes_by_name(name, size):
    assert numpy_dtype(name).name == name
    assert numpy_dtype(name).itemsize == size
