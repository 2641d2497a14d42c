"""Weights that half precision holds exactly, stored in half the bytes.

A checkpoint that was published in half precision has only such weights, and float32 graphs made from it would carry empty bits. A Cast
behind each brings it back to float32; a runtime computes that once, when it opens the graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

_LEAST_ELEMENTS: Final = 1024
"""Smaller weights are left alone: a Cast takes as much room as it saves."""


def store_exact_halves(path: Path) -> None:
    """Rewrite a graph whose weights are mostly exact in half precision; leave any other as it is.

    Args:
        path: of an ONNX file without external data.
    """
    model = onnx.load(path)
    large = [tensor for tensor in model.graph.initializer if _is_large(tensor)]
    exact = [tensor for tensor in large if _is_exact(tensor)]
    if sum(map(_elements, exact)) <= sum(map(_elements, large)) / 2:
        return
    casts = []
    for tensor in exact:
        values, name = numpy_helper.to_array(tensor), tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], name=f"{name}.cast", to=onnx.TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(casts + nodes)
    onnx.save(model, path)


def _is_large(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == onnx.TensorProto.FLOAT and _elements(tensor) >= _LEAST_ELEMENTS


def _is_exact(tensor: onnx.TensorProto) -> bool:
    values = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        return bool(np.array_equal(values.astype(np.float16).astype(np.float32), values))


def _elements(tensor: onnx.TensorProto) -> int:
    return int(np.prod(tensor.dims))
