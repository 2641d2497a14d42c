"""Weights in half the bytes: the same numbers come out."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from trt_track.export.exact_halves import store_exact_halves


def save_product(path, weights: np.ndarray) -> None:
    side = len(weights)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, side])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def run(path, x: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.mark.parametrize("exact", [True, False])
def test_only_weights_that_lose_nothing_are_stored_in_half(tmp_path, exact):
    path = tmp_path / "graph.onnx"
    weights = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    save_product(path, weights.astype(np.float16).astype(np.float32) if exact else weights)
    x = np.random.default_rng(1).normal(size=(2, 64)).astype(np.float32)
    before, size = run(path, x), path.stat().st_size
    store_exact_halves(path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert np.array_equal(run(path, x), before)
    assert (path.stat().st_size < 0.6 * size) is exact


def test_numbers_beyond_half_precision_stay(tmp_path):
    path = tmp_path / "graph.onnx"
    save_product(path, np.full((64, 64), 1e6, np.float32))
    content = path.read_bytes()
    store_exact_halves(path)
    assert path.read_bytes() == content
