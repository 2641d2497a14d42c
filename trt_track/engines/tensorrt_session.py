"""TensorRT as a `Session`: engines of either flavour on the lanes of one GPU, and what comes up again and again as one launch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

from trt_track.engines.bound_engine import Arrays, BoundEngine
from trt_track.engines.bundle import Bundle
from trt_track.engines.device_arrays import DeviceArrays
from trt_track.engines.device_memory import Device, Workspace
from trt_track.engines.engine_record import EngineFolder, find_engines
from trt_track.engines.kernel_file import KernelFile
from trt_track.engines.recordings import Recordings
from trt_track.engines.session import Key, Lane, home_lane
from trt_track.engines.tensorrt_door import TensorRT, TensorRTRuntime
from trt_track.errors import DeviceMemoryError, TensorMismatchError
from trt_track.specs import GraphSpec

_log = logging.getLogger(__name__)


class TensorRTSession(DeviceArrays):
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
        super().__init__(device)
        self._workspaces = {lane: Workspace(self._device, lane) for lane in Lane}
        self._engines: dict[str, Any] = {}
        self._graphs: dict[tuple[str, Lane], BoundEngine] = {}
        self._held = ExitStack()  # what is closed last
        self._kernels: KernelFile | None = None
        self._recordings = Recordings(self._device, partial(self._open, recorded=True), self._workspaces)
        try:
            self._tensorrt: TensorRT = tensorrt or TensorRTRuntime(flavour)
            self._held.callback(self._tensorrt.close)
            engines = find_engines(bundle, flavour=flavour, version=self._tensorrt.version, sm=self._device.gpu.sm)
            self.backend, self.version, self.device = flavour, self._tensorrt.version, self._device.gpu.name
            self.specs: Mapping[str, GraphSpec] = bundle.specs
            self.max_batch = min(record.limits.objects for record in engines.records.values())
            self.max_objects: int | None = self.max_batch
            frames = min(record.limits.frames for record in engines.records.values())
            self.max_frames: int | None = frames
            self.max_video_side: int | None = _largest_side(engines)
            self._recordings.frames = frames
            for name in bundle.specs:
                self._engines[name] = self._tensorrt.load_engine(engines.read_plan(bundle, name), name)
            kernels = KernelFile.of(engines, self.device)
            if content := kernels.read():
                self._tensorrt.restore_kernels(content)
            for name in bundle.specs:
                lane = home_lane(name)
                self._graphs[name, lane] = self._open(name, lane)
            self._kernels = kernels
        except BaseException:
            self.close()
            raise

    def _open(self, graph: str, lane: Lane, *, recorded: bool = False) -> BoundEngine:
        """Open one more context of an engine. Contexts of one lane run one after the other, so one work space serves them all."""
        spec, engine, workspace = self.specs[graph], self._engines[graph], self._workspaces[lane]
        return BoundEngine(spec, engine, tensorrt=self._tensorrt, workspace=workspace, recorded=recorded)

    def run(self, graph: str, inputs: Arrays, outputs: Arrays) -> None:
        """Ask the GPU to run one graph; see `Session.run`.

        Raises:
            TensorMismatchError: a name, shape or dtype is not the contract's, or larger than the engine was built for.
            EngineRunError: TensorRT refused, or the session is closed.
        """
        self._check_open()
        if graph not in self.specs:
            raise TensorMismatchError(f"the session has no graph {graph!r}; it has {', '.join(self.specs)}")
        loaded = self._recordings.engine(graph) or self._graphs.get((graph, self._lane))
        if loaded is None:
            loaded = self._graphs[graph, self._lane] = self._open(graph, self._lane)
        loaded.bind(inputs, outputs, self._host_values)
        loaded.enqueue(self._device.stream(self._lane))

    def recorded(self, key: Key, body: Callable[[], None]) -> None:
        """Do what `body` asks for, as one launch once it has come up a few times; see `Session.recorded`.

        Raises:
            EngineRunError: TensorRT refused, or the session is closed.
        """
        self._check_open()
        self._recordings.play(key, self._lane, body)

    def work_space(self, sizes: Mapping[str, int]) -> int | None:
        """Return the bytes that the graphs would take to work in, beyond what they hold; see `Session.work_space`.

        Raises:
            TensorMismatchError: a size is not what the engines were built for.
            EngineRunError: TensorRT cannot tell, or the session is closed.
        """
        self._check_open()
        return sum(max(0, nbytes - self._workspaces[lane].nbytes) for lane, nbytes in self._needs(sizes).items())

    def reserve(self, sizes: Mapping[str, int]) -> None:
        """Let the work spaces grow to what the largest runs need; see `Session.reserve`.

        Where there is no room, runs try again with what they need themselves.

        Raises:
            TensorMismatchError: a size is not what the engines were built for.
            EngineRunError: TensorRT cannot tell, or the session is closed.
        """
        self._check_open()
        for lane, nbytes in self._needs(sizes).items():
            try:
                self._workspaces[lane].grow(nbytes)
            except DeviceMemoryError as error:
                _log.info("work space is taken as it is needed: %s", error)

    def _needs(self, sizes: Mapping[str, int]) -> dict[Lane, int]:
        """Return the bytes that the contexts of each lane would take to work in."""
        needs: dict[Lane, int] = {}
        for (_, lane), engine in self._graphs.items():
            needs[lane] = max(needs.get(lane, 0), engine.needed_bytes(sizes))
        return needs

    def _free(self) -> None:
        """Free recordings and contexts, then engines, then what they worked in and the runtime that loaded them."""
        with self._held as then:
            for workspace in self._workspaces.values():
                then.callback(workspace.close)
            self._keep_kernels()
            self._recordings.close()
            self._graphs.clear()
            self._engines.clear()

    def _forget(self, owner: object) -> None:
        self._recordings.forget(owner)

    def _keep_kernels(self) -> None:
        """Keep what TensorRT compiled for the next process; nothing else depends on it."""
        try:
            if self._kernels is not None and (content := self._tensorrt.kernels()):
                self._kernels.write(content)
        except (RuntimeError, MemoryError) as error:
            _log.info("compiled kernels are not kept: %s", error)


def _largest_side(engines: EngineFolder) -> int | None:
    """Return the largest side of a video that every engine which is told one takes."""
    values = [record.profile.values for record in engines.records.values()]
    return min((most[name][2] for most in values for name in ("video_height", "video_width") if name in most), default=None)
