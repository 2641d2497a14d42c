"""PyTorch module -> ONNX file that fits its `GraphSpec`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from trt_track.errors import ExportError
from trt_track.export.exact_halves import store_exact_halves
from trt_track.export.layer_names import name_layers
from trt_track.specs import GraphSpec, TensorSpec

_LOG = logging.getLogger(__name__)

FUSED_OPSET = 23
"""The first opset with an `Attention` operator: TensorRT maps it to a fused kernel or refuses to build."""
PLAIN_OPSET = 20
"""An opset without it: attention comes out as products and a softmax, which every backend runs in float32."""
DETECTOR_OPSET = 19
"""The first with scales in half precision. Its `GridSample` is the one of opset 16: TensorRT has miscompiled that of opset 20 in some
versions."""

TRACE_SIZES: Mapping[str, int] = {"F": 2, "B": 3, "N": 4, "P": 5, "K": 6, "pages": 24, "pointers": 31, "H": 135, "W": 241, "T": 7}
"""Numbers for the named sizes while tracing: all different and none 1, so that no size is taken for another or for a constant."""


def sample_inputs(spec: GraphSpec, sizes: Mapping[str, int], seed: int) -> dict[str, Tensor]:
    """Return random inputs that are valid for a graph: indices within their bank, ages, labels and sizes that occur.

    Args:
        spec: the graph's contract.
        sizes: a number for every named size.
        seed: of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    return {tensor.name: _sample(tensor, sizes, generator) for tensor in spec.inputs}


def _sample(tensor: TensorSpec, sizes: Mapping[str, int], generator: torch.Generator) -> Tensor:
    shape, dtype = tensor.concrete(sizes), getattr(torch, tensor.dtype)
    if tensor.name == "frames":
        return sample_frames(shape, generator)
    ranges = {
        "mask": (0, 2),
        "labels": (-1, 4),
        "page": (0, sizes.get("pages", 0)),
        "pointer": (0, sizes.get("pointers", 0)),
        "pointer_span": (15, 16),
        "token": (1, 30),
        "position": (0, 4),
        "video_height": (sizes.get("H", 0), sizes.get("H", 0) + 1),
        "video_width": (sizes.get("W", 0), sizes.get("W", 0) + 1),
    }
    if tensor.name in ranges:
        low, high = ranges[tensor.name]
        return torch.randint(low, high, shape, generator=generator).to(dtype)
    if tensor.name in {"age", "pointer_age"}:
        return _ages(tensor.name, shape).to(dtype)
    if tensor.name == "attends":
        phrase = torch.arange(shape[0]) // 3
        return phrase[:, None] == phrase
    if dtype == torch.bool:
        return torch.arange(shape[0]) % 2 == _coin(generator)
    scale = {"points": 200.0, "mask_logits": 8.0, "mask_prompt": 8.0, "object_score": 4.0}.get(tensor.name, 1.0)
    return (torch.randn(shape, generator=generator) * scale).to(dtype)


def sample_frames(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return random frames (F, H, W, 3) uint8 whose contrast is as large at every scale, as that of photographs is.

    (D. J. Field, "Relations between the statistics of natural images and the response properties of cortical cells", 1987.) Plain noise
    has edges everywhere, and what is calibrated with photographs would be judged by values that no photograph leads to.
    """
    count, height, width, channels = shape
    levels = torch.zeros(count, channels, height, width)
    side = 2
    while side <= max(height, width):
        grain = torch.randn((count, channels, min(side, height), min(side, width)), generator=generator)
        levels += functional.interpolate(grain, size=(height, width), mode="bilinear", align_corners=False)
        side *= 2
    return (levels * 24 + 128).clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8)


def _coin(generator: torch.Generator) -> int:
    """Return 0 or 1, so that flags differ from row to row and from input to input."""
    return int(torch.randint(0, 2, (), generator=generator))


def _ages(name: str, shape: tuple[int, ...]) -> Tensor:
    """Return the ages of one conditioning frame and of the frames just before this one, for every object."""
    objects, count = shape
    recent = list(range(7 - count + 1, 7)) if name == "age" else list(range(1, count))
    first = 0 if name == "age" else 17
    return torch.tensor([[first, *recent]] * objects)


def trace(module: nn.Module, spec: GraphSpec, path: Path, *, opset: int, compact: bool = False) -> None:
    """Write `module` as one ONNX file with the names, dtypes and named sizes of `spec`.

    Args:
        module: takes the graph's inputs in order and returns its outputs in order.
        spec: the contract.
        path: of the file to write; its folder must exist.
        opset: from `FUSED_OPSET` on, attention becomes `Attention` operators.
        compact: whether weights that half precision holds exactly are stored so.

    Raises:
        ExportError: the exporter failed, or the file does not fit the contract.
    """
    inputs = tuple(sample_inputs(spec, TRACE_SIZES, seed=0).values())
    try:
        program = _export(module.eval(), spec, inputs, opset)
        name_layers(program.model)
        program.save(str(path), external_data=False)
    except Exception as error:
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise ExportError(f"graph {spec.name!r} could not be exported: {reason[0]}") from error
    if compact:
        store_exact_halves(path)
    _check_contract(path, spec)
    _LOG.info("exported %s: %.1f MB", path.name, path.stat().st_size / 1e6)


def _export(module: nn.Module, spec: GraphSpec, inputs: tuple[Tensor, ...], opset: int) -> torch.onnx.ONNXProgram:
    sizes = {dim: torch.export.Dim.DYNAMIC for tensor in spec.inputs for dim in tensor.shape if isinstance(dim, str)}
    dynamic = tuple({i: sizes[dim] for i, dim in enumerate(t.shape) if isinstance(dim, str)} for t in spec.inputs)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=dynamic,
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
            verbose=False,
            optimize=True,
        )
    if program is None:
        raise ExportError(f"graph {spec.name!r}: the exporter returned nothing")
    return program


def _check_contract(path: Path, spec: GraphSpec) -> None:
    """Compare names, dtypes and fixed sizes of the written file with its contract."""
    graph = onnx.load(path, load_external_data=False).graph
    for side, values, tensors in (("input", graph.input, spec.inputs), ("output", graph.output, spec.outputs)):
        names = [value.name for value in values]
        if names != [tensor.name for tensor in tensors]:
            raise ExportError(f"graph {spec.name!r}: {side}s are {names}, the contract says {[t.name for t in tensors]}")
        for value, tensor in zip(values, tensors, strict=True):
            dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
            fixed = [d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim]
            wrong = len(fixed) != len(tensor.shape) or any(
                isinstance(want, int) and got not in {None, want} for want, got in zip(tensor.shape, fixed, strict=True)
            )
            if dtype != tensor.dtype or wrong:
                raise ExportError(f"graph {spec.name!r}: {side} {tensor.name!r} is {dtype}{fixed}, the contract says {tensor}")
