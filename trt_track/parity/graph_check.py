"""Graphs against upstream's methods, one by one, on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from torch import Tensor, nn

from trt_track.engines.numpy_dtypes import numpy_dtype
from trt_track.engines.onnxruntime_session import OnnxRuntimeSession
from trt_track.engines.session import Session
from trt_track.export.tracing import sample_inputs
from trt_track.export.upstream_graphs import UpstreamGraphs
from trt_track.parity.measures import Deviation, compare_outputs
from trt_track.parity.thresholds import OutputLimits
from trt_track.specs import GraphSpec, Limits

_COMMON: Final = {"F": 1, "pages": 24, "pointers": 40, "H": 270, "W": 481}
QUICK: Final[Mapping[str, int]] = {**_COMMON, "B": 2, "N": 2, "P": 2, "K": 2}
"""Sizes of the check that ends an export: two objects with a short memory."""
STEADY: Final[Mapping[str, int]] = {**_COMMON, "B": 1, "N": 7, "P": 16, "K": 1}
"""Sizes of the steady state of tracking."""


def fitting_sizes(session: Session, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the sizes, or the largest that a session's engines were built for where those are smaller."""
    most: dict[str, int] = {}
    if session.max_objects is not None:
        limits = Limits(objects=session.max_objects)
        most |= {"B": min(session.max_batch, limits.objects), "pages": limits.pages, "pointers": limits.pointers}
    if session.max_video_side is not None:
        most |= {"H": session.max_video_side, "W": session.max_video_side}
    return {name: min(size, most.get(name, size)) for name, size in sizes.items()}


def check_graph(
    session: Session, spec: GraphSpec, upstream: UpstreamGraphs, sizes: Mapping[str, int], *, limits: OutputLimits
) -> list[Deviation]:
    """Run one graph in a session and in upstream and compare every output.

    Args:
        session: runs the graph.
        spec: the graph's contract.
        upstream: upstream's predictor with the same weights, in float32.
        sizes: a number for every named size.
        limits: of its outputs.
    """
    inputs = sample_inputs(spec, sizes, seed=1)
    device = {}
    for tensor in spec.inputs:
        device[tensor.name] = session.empty(tuple(inputs[tensor.name].shape), tensor.dtype)
        session.upload(device[tensor.name], _array(inputs[tensor.name], tensor.dtype))
    outputs = {tensor.name: session.empty(tensor.concrete(sizes), tensor.dtype) for tensor in spec.outputs}
    session.run(spec.name, device, outputs)
    found = {name: np.array(session.download(array)) for name, array in outputs.items()}
    wanted = {name: tensor.numpy() for name, tensor in upstream.run(spec, inputs).items()}
    return compare_outputs(f"{spec.name} B{sizes['B']} N{sizes['N']}", found, wanted, limits=limits)


def _array(tensor: Tensor, dtype: str) -> np.ndarray:
    """Return a tensor as an array; numpy's bfloat16, which PyTorch does not know, is reached through float32."""
    return tensor.float().numpy().astype(numpy_dtype(dtype)) if dtype == "bfloat16" else tensor.numpy()


def check_file(path: Path, spec: GraphSpec, upstream: UpstreamGraphs, *, limits: OutputLimits) -> list[Deviation]:
    """Check one ONNX file in ONNX Runtime on the CPU with `QUICK` sizes."""
    with OnnxRuntimeSession({spec.name: (spec, path)}) as session:
        return check_graph(session, spec, upstream, QUICK, limits=limits)


def check_session(
    session: Session,
    predictor: nn.Module,
    *,
    limits: Mapping[str, OutputLimits],
    sizes: Sequence[Mapping[str, int]] = (QUICK, STEADY),
    on_graph: Callable[[str], None] | None = None,
) -> list[Deviation]:
    """Check every graph of a session at several sizes, or as near to them as its engines go.

    Args:
        session: runs the graphs.
        predictor: upstream's predictor with the same weights, in float32.
        limits: of each graph's outputs, by its name.
        sizes: which numbers stand for the named sizes.
        on_graph: called with the name of each graph before it is checked.
    """
    upstream = UpstreamGraphs(predictor)
    rows: list[Deviation] = []
    for spec in session.specs.values():
        if on_graph:
            on_graph(spec.name)
        for numbers in (fitting_sizes(session, wanted) for wanted in sizes):
            rows.extend(check_graph(session, spec, upstream, numbers, limits=limits[spec.name]))
    return rows
