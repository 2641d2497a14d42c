"""FP32 graphs in a form that TensorRT for RTX compiles for SM 7.5 (RTX 20, T4).

It has no FP32 GEMM for that family and refuses the whole graph, but it has FP32 convolutions, products and sums. So a product with a
weight becomes a 1x1 convolution over single cells, and a product of two computed tensors becomes a multiplication and a sum, which the
compiler fuses. Both compute the same sums in FP32; FP16 products stay as they are. That family has no bfloat16 either: memories, which FP32
graphs round to it as upstream does, are rounded to float16 there and keep three bits more. Needs `onnx`, which the extra `export` installs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trt_track.errors import BackendError

if TYPE_CHECKING:
    import onnx

_FLOAT, _FLOAT16, _BFLOAT16 = 1, 10, 16
"""ONNX's numbers of element types."""


def rewrite_for_turing(path: Path) -> bytes:
    """Return an ONNX file with its FP32 MatMul and Gemm nodes and its rounding to bfloat16 rewritten, serialised.

    Raises:
        BackendError: `onnx` is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise BackendError(f"onnx is not installed ({error}), SM 7.5 needs it: pip install 'trt-track[export]'") from error
    model = onnx.load(str(path))
    _widen_weights(model.graph)
    _round_to_float16(model.graph)
    model = onnx.shape_inference.infer_shapes(model)
    rewriter = _Rewriter(model)
    nodes = [new for node in model.graph.node for new in rewriter.rewrite(node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(rewriter.constants)
    return bytes(model.SerializeToString())


def _widen_weights(graph: onnx.GraphProto) -> None:
    """Store weights in float32 that lie in half precision behind a cast."""
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in graph.initializer}
    casts = [node for node in graph.node if node.op_type == "Cast" and node.input[0] in stored and node.attribute[0].i == _FLOAT]
    for node in casts:
        values = numpy_helper.to_array(stored[node.input[0]]).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        graph.node.remove(node)


def _round_to_float16(graph: onnx.GraphProto) -> None:
    """Let casts to bfloat16 go to float16."""
    for node in graph.node:
        if node.op_type == "Cast" and node.attribute[0].i == _BFLOAT16:
            node.attribute[0].i = _FLOAT16
    for value in graph.value_info:
        if value.type.tensor_type.elem_type == _BFLOAT16:
            value.type.tensor_type.elem_type = _FLOAT16


class _Rewriter:
    """Rewrites one node after another and collects the constants that the new nodes need."""

    def __init__(self, model: onnx.ModelProto) -> None:
        from onnx import helper, numpy_helper

        self._node = helper.make_node
        self._tensor = numpy_helper.from_array
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._weights |= {node.output[0]: node.attribute[0].t for node in model.graph.node if _is_tensor_constant(node)}
        values = [*model.graph.value_info, *model.graph.input, *model.graph.output]
        self._types = {value.name: value.type.tensor_type for value in values}
        self._array = numpy_helper.to_array
        self.constants: list[onnx.TensorProto] = []

    def rewrite(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """Yield the nodes that take the place of `node`: itself, unless it is an FP32 product."""
        weight = self._weight(node)
        if not self._is_fp32_product(node):
            yield node
        elif weight is not None:
            yield from self._as_convolution(node, weight)
        elif node.op_type == "MatMul" and node.input[0] in self._weights and self._array(self._weights[node.input[0]]).ndim == 2:
            yield from self._as_transposed_convolution(node)
        elif node.op_type == "MatMul":
            yield from self._as_sum(node)
        else:
            yield node  # a Gemm of a rarer kind: TensorRT says what it thinks of it

    def _is_fp32_product(self, node: onnx.NodeProto) -> bool:
        known = self._types.get(node.output[0])
        return node.op_type in ("MatMul", "Gemm") and known is not None and known.elem_type == _FLOAT

    def _weight(self, node: onnx.NodeProto) -> np.ndarray | None:
        """Return the constant second factor as (columns, rows); None when there is none that a convolution can take."""
        if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in self._weights:
            return None
        factor: np.ndarray = self._array(self._weights[node.input[1]])
        settings = {attribute.name: attribute.i or attribute.f for attribute in node.attribute}
        if factor.ndim != 2 or settings.get("transA", 0) or settings.get("alpha", 1) != 1 or settings.get("beta", 1) != 1:
            return None
        return factor if settings.get("transB", 0) else factor.T

    def _as_convolution(self, node: onnx.NodeProto, weight: np.ndarray) -> Iterator[onnx.NodeProto]:
        """(..., rows) @ (rows, columns): every row vector is one cell with `rows` channels."""
        columns, rows = weight.shape
        source, own = node.input[0], f"{node.output[0]}/product"
        kernel = self._constant(f"{own}/kernel", np.ascontiguousarray(weight)[:, :, None, None])
        yield self._node("Reshape", [source, self._constant(f"{own}/cell", [-1, rows, 1, 1])], [f"{own}/cells"])
        yield self._node("Conv", [f"{own}/cells", kernel, *node.input[2:]], [f"{own}/convolved"])
        yield self._node("Shape", [source], [f"{own}/leading"], end=-1)
        yield self._node("Concat", [f"{own}/leading", self._constant(f"{own}/columns", [columns])], [f"{own}/shape"], axis=0)
        yield self._node("Reshape", [f"{own}/convolved", f"{own}/shape"], [node.output[0]])

    def _as_transposed_convolution(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """(m, k) @ (..., k, n) is the transpose of (..., n, k) @ (k, m)."""
        from onnx import helper

        own = f"{node.output[0]}/turned"
        rank = len(self._types[node.output[0]].shape.dim)
        order = [*range(rank - 2), rank - 1, rank - 2]
        yield self._node("Transpose", [node.input[1]], [f"{own}/factor"], perm=order)
        product = helper.make_node("MatMul", [f"{own}/factor", node.input[0]], [f"{own}/product"])
        yield from self._as_convolution(product, self._array(self._weights[node.input[0]]))
        yield self._node("Transpose", [f"{own}/product"], [node.output[0]], perm=order)

    def _as_sum(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """(..., m, k, 1) * (..., 1, k, n), summed over k."""
        own = f"{node.output[0]}/sum"
        yield self._node("Unsqueeze", [node.input[0], self._constant(f"{own}/last", [-1])], [f"{own}/left"])
        yield self._node("Unsqueeze", [node.input[1], self._constant(f"{own}/third", [-3])], [f"{own}/right"])
        yield self._node("Mul", [f"{own}/left", f"{own}/right"], [f"{own}/terms"])
        yield self._node("ReduceSum", [f"{own}/terms", self._constant(f"{own}/axis", [-2])], [node.output[0]], keepdims=0)

    def _constant(self, name: str, value: Any) -> str:
        self.constants.append(self._tensor(np.asarray(value), name))
        return name


def _is_tensor_constant(node: onnx.NodeProto) -> bool:
    return node.op_type == "Constant" and node.attribute[0].name == "value"
