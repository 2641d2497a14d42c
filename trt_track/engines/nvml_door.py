"""The door to NVML, the driver's own library: what a GPU is and has free, without starting CUDA on it."""

from __future__ import annotations

import os
from typing import Any

from trt_track.engines.device_memory import Gpu
from trt_track.errors import BackendError


def present_gpu() -> Gpu:
    """Return the GPU that CUDA would take first, and the memory that is free on it now.

    Raises:
        BackendError: nvidia-ml-py is not installed, or there is no driver or no GPU.
    """
    try:
        import pynvml
    except ModuleNotFoundError as error:
        raise BackendError("nvidia-ml-py is not installed: pip install 'trt-track[rtx]'") from error
    try:
        pynvml.nvmlInit()
        try:
            return _read(pynvml)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise BackendError(f"no NVIDIA GPU that can be asked ({error})") from error


def _read(pynvml: Any) -> Gpu:
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip()
    if first.startswith(("GPU-", "MIG-")):
        handle = pynvml.nvmlDeviceGetHandleByUUID(first)
    else:
        handle = pynvml.nvmlDeviceGetHandleByIndex(int(first) if first.isdigit() else 0)
    memory, (major, minor) = pynvml.nvmlDeviceGetMemoryInfo(handle), pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(str(pynvml.nvmlDeviceGetName(handle)), 10 * major + minor, int(memory.free), int(memory.total))
