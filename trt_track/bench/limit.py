"""The arithmetic limit: how many multiplications a frame takes, and how many a device does in a second."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from trt_track.bench.order import CUDA
from trt_track.bench.worker import Send
from trt_track.parity.weights import UpstreamModel

_CPU_SIDE: Final = 2048
_GPU_SIDE: Final = 8192
_ROUNDS: Final = 5
"""Times that the product is taken; the fastest counts."""
_PER_ROUND: Final = 10
"""Products on a GPU between two looks at the clock."""


@dataclass(frozen=True, slots=True)
class LimitOrder:
    """What to count and to measure."""

    model: UpstreamModel
    device: str
    threads: int
    scratch: Path
    """Folder for a graph of one product."""


def measure_limit(order: LimitOrder, send: Send) -> None:
    """Send "gmac", billions of multiplications with addition per graph, and "peak", those in a second of a large matrix product."""
    from trt_track.bench.work import frame_gmac
    from trt_track.export.upstream import build_model

    send("gmac", frame_gmac(build_model(order.model.config, order.model.image_size)))
    send("peak", gpu_peak() if order.device == CUDA else cpu_peak(order.scratch, order.threads))


def cpu_peak(scratch: Path, threads: int, side: int = _CPU_SIDE) -> dict[str, Any]:
    """Multiply two FP32 matrices in ONNX Runtime, as our session would."""
    from trt_track.engines.onnxruntime_session import OnnxRuntimeSession
    from trt_track.specs import GraphSpec, TensorSpec

    a, b, c = (TensorSpec(name, (side, side), "float32") for name in "abc")
    path = scratch / "product.onnx"
    _write_product(path, side)
    numbers = np.random.default_rng(0).standard_normal((side, side), np.float32)
    with OnnxRuntimeSession({"product": (GraphSpec("product", (a, b), (c,)), path)}, threads=threads) as session:
        arrays = {"a": numbers, "b": numbers.T.copy()}, {"c": session.empty((side, side), "float32")}
        seconds = []
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            session.run("product", *arrays)
            seconds.append(time.perf_counter() - started)
    return {"gmac_per_s": side**3 / min(seconds) / 1e9, "by": f"{side} x {side} product in FP32, ONNX Runtime"}


def _write_product(path: Path, side: int) -> None:
    """Write a graph of one matrix product."""
    import onnx
    from onnx import TensorProto, helper

    a, b, c = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [side, side]) for name in "abc")
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", [a, b], [c])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)


def gpu_peak(side: int = _GPU_SIDE) -> dict[str, Any]:
    """Multiply two FP16 matrices in PyTorch on the GPU."""
    import torch

    a, b = (torch.randn(side, side, device="cuda", dtype=torch.float16) for _ in range(2))
    seconds = []
    for _ in range(_ROUNDS):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(_PER_ROUND):
            torch.matmul(a, b)
        torch.cuda.synchronize()
        seconds.append((time.perf_counter() - started) / _PER_ROUND)
    return {"gmac_per_s": side**3 / min(seconds) / 1e9, "by": f"{side} x {side} product in FP16, PyTorch"}
