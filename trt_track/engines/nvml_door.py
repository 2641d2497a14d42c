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


def first_gpu(pynvml: Any) -> Any:
    """Return NVML's handle of the GPU that CUDA calls the first one.

    NVML counts along the PCI bus, CUDA by speed, unless `CUDA_DEVICE_ORDER` says otherwise; where there are several GPUs it is asked which
    one it means. It takes no memory for that.

    Raises:
        BackendError: there are several and CUDA cannot be asked.
        pynvml.NVMLError: there is none.
    """
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip()
    if first.startswith(("GPU-", "MIG-")):
        return pynvml.nvmlDeviceGetHandleByUUID(first)
    if os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or pynvml.nvmlDeviceGetCount() == 1:
        return pynvml.nvmlDeviceGetHandleByIndex(int(first) if first.isdigit() else 0)
    from trt_track.engines.cuda_door import first_bus_id

    return pynvml.nvmlDeviceGetHandleByPciBusId(first_bus_id())


def _read(pynvml: Any) -> Gpu:
    handle = first_gpu(pynvml)
    memory, (major, minor) = pynvml.nvmlDeviceGetMemoryInfo(handle), pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(str(pynvml.nvmlDeviceGetName(handle)), 10 * major + minor, int(memory.free), int(memory.total))
