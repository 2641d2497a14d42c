"""TensorRT as a `Session`: engines of either flavour, one stream, arrays in GPU memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np

from trt_track.engines.bound_engine import Arrays, BoundEngine
from trt_track.engines.bundle import Bundle
from trt_track.engines.device_memory import Block, Device, DeviceArray, UploadRing, Workspace
from trt_track.engines.engine_record import EngineFolder, find_engines
from trt_track.engines.host_memory import MemoryState
from trt_track.engines.tensorrt_door import TensorRT, TensorRTRuntime
from trt_track.errors import EngineRunError, TensorMismatchError
from trt_track.specs import DTYPE_BYTES, GraphSpec


class TensorRTSession:
    """Fills the `Session` protocol with TensorRT engines."""

    def __init__(
        self, bundle: Bundle, *, flavour: str = "tensorrt-rtx", device: Device | None = None, tensorrt: TensorRT | None = None
    ) -> None:
        """Load the engines that a bundle has for this GPU.

        Args:
            bundle: the opened bundle.
            flavour: "tensorrt-rtx" or "tensorrt".
            device: the GPU, the first one when None.
            tensorrt: TensorRT's runtime, the installed one when None.

        Raises:
            BackendError: TensorRT, the driver or the GPU is missing.
            EngineMismatchError: no engine was built for this GPU and TensorRT, or one was changed.
            EngineRunError: TensorRT refused an engine, or GPU memory is short.
        """
        self._device = device or _first_gpu()
        self._closed = False
        self._blocks: list[Block] = []
        self._workspace = Workspace(self._device)
        # TensorRT reads inputs that shapes depend on from the host: the last value of every array of one integer, by address.
        self._host_values: dict[int, int] = {}
        self._downloads: dict[int, np.ndarray] = {}
        self._graphs: dict[str, BoundEngine] = {}
        try:
            self._tensorrt: TensorRT = tensorrt or TensorRTRuntime(flavour)
            engines = find_engines(bundle, flavour=flavour, version=self._tensorrt.version, sm=self._device.gpu.sm)
            self.backend, self.version, self.device = flavour, self._tensorrt.version, self._device.gpu.name
            self.specs: Mapping[str, GraphSpec] = bundle.specs
            self.max_batch = min(record.limits.objects for record in engines.records.values())
            self.max_objects: int | None = self.max_batch
            self.max_frames: int | None = min(record.limits.frames for record in engines.records.values())
            self.max_video_side: int | None = _largest_side(engines)
            self._ring = UploadRing(self._device)
            for name in bundle.specs:
                self._graphs[name] = self._load(bundle, engines, name)
        except BaseException:
            self.close()
            raise

    def _load(self, bundle: Bundle, engines: EngineFolder, name: str) -> BoundEngine:
        engine = self._tensorrt.load_engine(engines.read_plan(bundle, name), name)
        # All engines run one after the other on one stream, so one work space serves them all.
        return BoundEngine(bundle.record(name).spec, engine, tensorrt=self._tensorrt, workspace=self._workspace)

    def empty(self, shape: Sequence[int], dtype: str) -> DeviceArray:
        """Allocate an array of zeros in GPU memory.

        Raises:
            EngineRunError: there is not enough, or the session is closed.
        """
        self._check_open()
        if dtype not in DTYPE_BYTES:
            raise TensorMismatchError(f"dtype {dtype!r} is unknown: choose one of {', '.join(DTYPE_BYTES)}")
        nbytes = DeviceArray(0, shape, dtype).nbytes
        block = self._device.allocate(nbytes)
        self._blocks.append(block)
        if nbytes:
            self._device.zero(block.pointer, nbytes)
        if tuple(shape) == (1,) and dtype in ("int32", "int64"):
            self._host_values[block.pointer] = 0
        return DeviceArray(block.pointer, shape, dtype)

    def upload(self, target: DeviceArray, source: np.ndarray) -> None:
        """Copy a host array into `target`, in order with `run`; `source` may be reused at once.

        Raises:
            TensorMismatchError: shape or dtype differ.
            EngineRunError: the session is closed.
        """
        self._check_open()
        if target.shape != source.shape or target.dtype != source.dtype.name:
            raise TensorMismatchError(f"{target} cannot take {source.dtype}{list(source.shape)}")
        if source.size:
            self._ring.upload(target.pointer, np.ascontiguousarray(source))
        self._host_values.pop(target.pointer, None)
        if target.shape == (1,) and source.dtype.kind == "i":
            self._host_values[target.pointer] = int(source[0])

    def download(self, source: DeviceArray) -> np.ndarray:
        """Wait for everything asked for so far and return the content of `source`.

        The array is pinned memory of the session: it holds until the next download from the same place.

        Raises:
            EngineRunError: something that was asked for failed, or the session is closed.
        """
        self._check_open()
        pinned = self._downloads.get(source.pointer)
        if pinned is None or pinned.size < source.nbytes:
            pinned = self._downloads[source.pointer] = self._device.pinned(source.nbytes)
        if source.nbytes:
            self._device.copy(pinned.ctypes.data, source.pointer, source.nbytes)
        self._device.synchronize()
        return pinned[: source.nbytes].view(source.dtype).reshape(source.shape)

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        """Copy between two arrays, in order with `run`.

        Raises:
            TensorMismatchError: shape or dtype differ.
            EngineRunError: the session is closed.
        """
        self._check_open()
        if target.shape != source.shape or target.dtype != source.dtype:
            raise TensorMismatchError(f"{target} cannot take {source}")
        if source.nbytes:
            self._device.copy(target.pointer, source.pointer, source.nbytes)
        known = self._host_values.get(source.pointer)
        self._host_values.pop(target.pointer, None)
        if target.shape == (1,) and known is not None:
            self._host_values[target.pointer] = known

    def run(self, graph: str, inputs: Arrays, outputs: Arrays) -> None:
        """Ask the GPU to run one graph; see `Session.run`.

        Raises:
            TensorMismatchError: a name, shape or dtype is not the contract's, or larger than the engine was built for.
            EngineRunError: TensorRT refused, or the session is closed.
        """
        self._check_open()
        try:
            loaded = self._graphs[graph]
        except KeyError:
            raise TensorMismatchError(f"the session has no graph {graph!r}; it has {', '.join(self._graphs)}") from None
        loaded.bind(inputs, outputs, self._host_values)
        loaded.enqueue(self._device.stream)

    def memory(self) -> MemoryState | None:
        """Return the state of the GPU's memory, whoever holds it: work space that was allocated once is kept."""
        gpu = self._device.gpu
        held = gpu.total_bytes - gpu.free_bytes
        return MemoryState(held=held, peak=held, available=gpu.free_bytes)

    def _check_open(self) -> None:
        """Refuse what would write to memory that was given back."""
        if self._closed:
            raise EngineRunError("the session is closed: a tracker that was closed cannot go on, open it again")

    def close(self) -> None:
        """Wait for the GPU and free everything that the session allocated. Downloaded arrays stay valid."""
        if self._closed:
            return
        self._closed = True
        try:
            self._device.synchronize()
        finally:
            self._graphs.clear()
            self._workspace.close()
            for block in self._blocks:
                block.close()
            self._blocks.clear()
            self._downloads.clear()
            self._device.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _largest_side(engines: EngineFolder) -> int | None:
    """Return the largest side of a video that every engine which is told one takes."""
    values = [record.profile.values for record in engines.records.values()]
    return min((most[name][2] for most in values for name in ("video_height", "video_width") if name in most), default=None)


def _first_gpu() -> Device:
    from trt_track.engines.cuda_door import CudaDevice

    return CudaDevice()
