import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny_graphs import DESCRIPTION, constant

from trt_track.engines.bundle import Bundle
from trt_track.engines.tensorrt_builder import build_engines
from trt_track.engines.turing_form import rewrite_for_turing
from trt_track.specs import GraphSpec, Limits, TensorSpec

ort = pytest.importorskip("onnxruntime")
RANDOM = np.random.default_rng(5)
WEIGHT = constant("weight", RANDOM.standard_normal((6, 3)).astype(np.float32))
TURNED = constant("turned", RANDOM.standard_normal((5, 4)).astype(np.float32))
SPEC = GraphSpec(
    "products",
    (TensorSpec("x", ("B", 4, 6), "float32"),),
    (TensorSpec("y", ("B", 4, 4), "float32"), TensorSpec("z", ("B", 5, 6), "float32"), TensorSpec("g", ("B", 3), "float32")),
)


def write_products(path):
    """Write x @ w @ (x @ w)^T, a weight from the left, and a Gemm with its weight turned."""
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["projected"]),
        helper.make_node("Transpose", ["projected"], ["back"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["projected", "back"], ["y"]),
        helper.make_node("MatMul", ["turned", "x"], ["z"]),
        helper.make_node("ReduceSum", ["x", "axis"], ["row"], keepdims=0),
        helper.make_node("Gemm", ["row", "gemm_weight", "gemm_bias"], ["g"], transB=1),
    ]
    constants = [WEIGHT, TURNED, constant("axis", [1])]
    constants += [constant("gemm_weight", RANDOM.standard_normal((3, 6)).astype(np.float32)), constant("gemm_bias", np.float32([1, 2, 3]))]
    sides = [
        [helper.make_tensor_value_info(t.name, TensorProto.FLOAT, list(t.shape)) for t in side] for side in (SPEC.inputs, SPEC.outputs)
    ]
    graph = helper.make_graph(nodes, "products", *sides, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))


def run(model, x):
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(["y", "z", "g"], {"x": x})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("batch", [1, 3])
def test_rewritten_products_compute_the_same(tmp_path, batch):
    write_products(tmp_path / "m.onnx")
    rewritten = rewrite_for_turing(tmp_path / "m.onnx")
    operators = {node.op_type for node in onnx.load_from_string(rewritten).graph.node}
    assert not operators & {"MatMul", "Gemm"}
    x = RANDOM.standard_normal((batch, 4, 6)).astype(np.float32)
    for got, expected in zip(run(rewritten, x), run((tmp_path / "m.onnx").read_bytes(), x), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_half_precision_products_stay(tmp_path):
    half = helper.make_tensor_value_info("x", TensorProto.FLOAT16, [2, 2]), helper.make_tensor_value_info("y", TensorProto.FLOAT16, [2, 2])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "x"], ["y"])], "half", half[:1], half[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), str(tmp_path / "m.onnx"))
    assert [node.op_type for node in onnx.load_from_string(rewrite_for_turing(tmp_path / "m.onnx")).graph.node] == ["MatMul"]


def test_products_compile_for_turing(tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install 'trt-track[rtx]'")
    with Bundle.create(tmp_path / "b", DESCRIPTION) as draft:
        write_products(draft.onnx_path("products"))
        draft.add(SPEC)
    records = build_engines(Bundle.open(tmp_path / "b"), targets=("sm75", "all", "sm89"), limits=Limits(objects=4))
    assert all(record.engine.bytes > 1000 for record in records)
