"""What is inside the ONNX graphs of a bundle, and whether it is what the contract says. Needs `onnx`, which the extra `export` installs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trt_track.engines.bundle import Bundle
from trt_track.errors import BackendError
from trt_track.specs import TensorSpec

if TYPE_CHECKING:
    import onnx

REFUSED: Final = ("NonZero", "ScatterElements", "Unique", "Loop", "If", "SequenceAt", "StringNormalizer", "RandomNormal", "RandomUniform")
"""Operators that TensorRT refuses, or whose size or branch would depend on data in the middle of a frame."""
TYPES: Final = {1: "float32", 2: "uint8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 16: "bfloat16"}
"""ONNX's numbers (`TensorProto.DataType`) for the dtypes of contracts."""


@dataclass(frozen=True, slots=True)
class GraphReport:
    """One ONNX graph in numbers."""

    graph: str
    opset: int
    operators: Mapping[str, int]
    """How often each operator occurs, functions and subgraphs included."""
    weights_bytes: int
    problems: tuple[str, ...]
    """What TensorRT or the contract would object to; empty when all is well."""

    @property
    def attention_nodes(self) -> int:
        """Attention operators, each of which becomes one fused kernel."""
        return self.operators.get("Attention", 0)


def report_bundle(bundle: Bundle) -> list[GraphReport]:
    """Report on every graph of a bundle.

    Raises:
        BackendError: `onnx` is not installed.
        BundleError: an ONNX file is missing or was changed.
    """
    return [report_graph(bundle, graph) for graph in bundle.manifest.graphs]


def report_graph(bundle: Bundle, graph: str) -> GraphReport:
    """Report on one graph; see `report_bundle`."""
    model = _load(bundle.onnx_path(graph))
    spec = bundle.record(graph).spec
    operators = Counter(node.op_type for node in _nodes(model))
    opset = max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0)
    problems = [f"operator {name} ({count})" for name, count in operators.items() if name in REFUSED]
    problems += _contract_problems("input", model.graph.input, spec.inputs)
    problems += _contract_problems("output", model.graph.output, spec.outputs)
    problems += _uint8_problems(model)
    weights = sum(_tensor_bytes(tensor) for tensor in model.graph.initializer)
    return GraphReport(graph, opset, dict(operators.most_common()), weights, tuple(problems))


def describe_graph(bundle: Bundle, graph: str) -> str:
    """Return polygraphy's full listing of a graph, node by node.

    Raises:
        BackendError: polygraphy is not installed.
        BundleError: the ONNX file is missing or was changed.
    """
    try:
        from polygraphy.backend.onnx import util
    except ImportError as error:
        raise BackendError(f"polygraphy is not installed ({error}): pip install polygraphy") from error
    return str(util.str_from_onnx(_load(bundle.onnx_path(graph)), show_layers=True, show_attrs=True))


def _load(path: Path) -> onnx.ModelProto:
    try:
        import onnx
    except ImportError as error:
        raise BackendError(f"onnx is not installed ({error}): pip install 'trt-track[export]'") from error
    return onnx.load(str(path), load_external_data=False)


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield all nodes, those of functions and of subgraphs included."""
    pending: list[Any] = [model.graph, *model.functions]
    while pending:
        for node in pending.pop().node:
            yield node
            pending.extend(attribute.g for attribute in node.attribute if attribute.HasField("g"))


def _contract_problems(side: str, values: Any, tensors: tuple[TensorSpec, ...]) -> list[str]:
    found = {value.name: value.type.tensor_type for value in values}
    problems = [f"{side} {name!r} is not in the contract" for name in found.keys() - {tensor.name for tensor in tensors}]
    for tensor in tensors:
        if tensor.name not in found:
            problems.append(f"{side} {tensor.name!r} is missing")
            continue
        got = found[tensor.name]
        dims = [dim.dim_param or dim.dim_value for dim in got.shape.dim]
        fits = len(dims) == len(tensor.shape) and all(
            isinstance(want, str) or dim == want for dim, want in zip(dims, tensor.shape, strict=True)
        )
        dtype = TYPES.get(got.elem_type, str(got.elem_type))
        if not fits or dtype != tensor.dtype:
            problems.append(f"{side} {tensor.name!r} should be {tensor}, is {dtype}{dims}")
    return problems


def _uint8_problems(model: onnx.ModelProto) -> list[str]:
    """TensorRT takes uint8 only where it enters or leaves a graph: the next node, or the last one, must be a Cast."""
    inputs = {value.name for value in model.graph.input if value.type.tensor_type.elem_type == 2}
    outputs = {value.name for value in model.graph.output if value.type.tensor_type.elem_type == 2}
    problems = []
    for node in _nodes(model):
        reads = [name for name in node.input if name in inputs]
        writes = [name for name in node.output if name in outputs]
        if (reads or writes) and node.op_type != "Cast":
            problems.append(f"uint8 {', '.join(reads + writes)} touches {node.op_type} {node.name!r}: put a Cast between them")
    return problems


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    from onnx import helper

    elements = 1
    for size in tensor.dims:
        elements *= size
    return elements * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
