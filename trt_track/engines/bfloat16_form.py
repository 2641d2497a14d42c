"""bfloat16 graphs in a form that ONNX Runtime computes on the CPU, where it has no bfloat16 kernels.

Every operator computes in float32 and what it computes is rounded to bfloat16, as a GPU does that sums up in float32. A product and the
bias behind it are rounded once, together, as the kernel that computes both does. Slow, and meant for checking what the precision does to
masks; inside of an `Attention` a GPU's kernel may round once more. Needs `onnx`, which the extra `export` installs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from trt_track.errors import BackendError

if TYPE_CHECKING:
    import onnx

_FLOAT: Final = 1
_BFLOAT16: Final = 16
"""Numbers of ONNX's element types."""
_EXACT: Final = frozenset(
    {
        "Concat",
        "Constant",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "MaxPool",
        "Pad",
        "ReduceMax",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Tile",
    }
    | {"Transpose", "Unsqueeze", "Where"}
)
"""Operators that pick values and compute none: what they give needs no rounding."""


def rewrite_bfloat16(path: Path) -> bytes | None:
    """Return an ONNX file with its bfloat16 arithmetic in float32, rounded after each operator, serialised; None where it has none.

    Inputs and outputs keep their dtypes.

    Raises:
        BackendError: `onnx` is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise BackendError(
            f"onnx is not installed ({error}), and bfloat16 on a CPU needs it: pip install 'trt-track[export]', or take another precision"
        ) from error
    model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
    graph = model.graph
    values = [*graph.value_info, *graph.input, *graph.output]
    low = {value.name for value in values if value.type.tensor_type.elem_type == _BFLOAT16}
    low |= {tensor.name for tensor in graph.initializer if tensor.data_type == _BFLOAT16}
    if not low:
        return None
    low -= _biased(graph)
    for tensor in graph.initializer:
        _widen(tensor)
    given, wanted = (
        {value.name: f"{value.name}/wide" for value in side if value.type.tensor_type.elem_type == _BFLOAT16}
        for side in (graph.input, graph.output)
    )
    _rename(graph, given | wanted)
    low |= set(wanted.values())
    nodes = [_cast(name, wide, _FLOAT) for name, wide in given.items()]
    nodes += [new for node in graph.node for new in _rounded(node, low)]
    nodes += [_cast(wide, name, _BFLOAT16) for name, wide in wanted.items()]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def _biased(graph: onnx.GraphProto) -> set[str]:
    """Return the results of products that are read once, by a sum with a bias."""
    read = Counter(name for node in graph.node for name in node.input)
    read.update(value.name for value in graph.output)
    products = {node.output[0] for node in graph.node if node.op_type == "MatMul" and read[node.output[0]] == 1}
    biases = {tensor.name for tensor in graph.initializer if all(size == 1 for size in tensor.dims[:-1])}
    sums = [set(node.input) for node in graph.node if node.op_type == "Add"]
    return {name for terms in sums if terms & biases for name in terms & products}


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Give values that nodes read and write other names."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def _widen(tensor: onnx.TensorProto) -> None:
    """Store a bfloat16 constant as float32."""
    import numpy as np
    from onnx import numpy_helper

    if tensor.data_type == _BFLOAT16:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


def _cast(source: str, target: str, dtype: int) -> onnx.NodeProto:
    from onnx import helper

    return helper.make_node("Cast", [source], [target], name=f"{target}/cast", to=dtype)


def _rounded(node: onnx.NodeProto, low: set[str]) -> Iterator[onnx.NodeProto]:
    """Yield a node that computes in float32, and what rounds its bfloat16 outputs."""
    for attribute in node.attribute:
        if attribute.HasField("t"):
            _widen(attribute.t)
    if node.op_type == "Cast" and node.output[0] in low:
        yield from _rounding(node.input[0], node.output[0])
        return
    rounds = [name for name in node.output if name in low and node.op_type not in _EXACT]
    node.output[:] = [f"{name}/exact" if name in rounds else name for name in node.output]
    yield node
    for name in rounds:
        yield from _rounding(f"{name}/exact", name)


def _rounding(source: str, target: str) -> Iterator[onnx.NodeProto]:
    yield _cast(source, f"{target}/rounded", _BFLOAT16)
    yield _cast(f"{target}/rounded", target, _FLOAT)
