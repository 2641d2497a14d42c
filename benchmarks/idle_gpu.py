"""A GPU and a TensorRT that do nothing, under the real session: what is left is what the host does for one.

Nothing is checked: the tests' fakes do that. Pinned memory is ordinary memory, so that frames and indices are really copied into it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from trt_track.engines.bundle import Bundle
from trt_track.engines.device_memory import Gpu
from trt_track.engines.engine_record import EngineFolder, EngineRecord
from trt_track.engines.file_record import FileRecord
from trt_track.engines.manifest import Description
from trt_track.engines.profiles import Profile, graph_profile
from trt_track.engines.session import Lane
from trt_track.engines.tensorrt_session import TensorRTSession
from trt_track.recipe import Recipe
from trt_track.specs import GraphSpec, Limits, ModelSpec, graph_specs

FLAVOUR: Final = "tensorrt-rtx"
SIZES: Final = {"video_height": "H", "video_width": "W"}


class Idle:
    """A block, an event, a recording."""

    pointer = 0
    graph = None

    def close(self) -> None: ...


class IdleDevice:
    """Fills the `Device` protocol."""

    gpu = Gpu("nothing", 89, 64 << 30, 64 << 30)

    def __init__(self) -> None:
        self._next = 1 << 48

    def make_current(self) -> None: ...

    def stream(self, lane: Lane) -> int:
        return int(lane)

    def allocate(self, nbytes: int, lane: Lane) -> Idle:
        block = Idle()
        block.pointer, self._next = self._next, self._next + nbytes + -nbytes % 256 + 256
        return block

    def pinned(self, nbytes: int) -> np.ndarray:
        return np.ones(nbytes, np.uint8)  # written once: pages that never were are cheaper

    def event(self) -> Idle:
        return Idle()

    def happened(self, event: Idle) -> bool:
        return True

    @contextmanager
    def capture(self, lane: Lane) -> Iterator[Callable[[], Idle]]:
        yield Idle

    def _nothing(self, *_: object) -> None: ...

    copy = scatter = zero = destroy = record = after = wait = launch = _nothing

    def synchronize(self) -> None: ...

    def close(self) -> None: ...


class IdleEngine:
    """An engine and its contexts in one: takes whatever it is given."""

    def __init__(self, spec: GraphSpec, profile: Profile) -> None:
        self.spec, self.profile = spec, profile
        self.sizes: dict[str, int] = {}
        self.addresses: dict[str, int] = {}

    def get_tensor_profile_shape(self, name: str, index: int) -> tuple[tuple[int, ...], ...]:
        return self.profile.shapes[name]

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        dims = self.spec.tensor(name).shape
        self.sizes |= {dim: size for dim, size in zip(dims, shape, strict=True) if isinstance(dim, str)}
        return True

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        if name in SIZES:
            self.sizes[SIZES[name]] = ctypes.c_int64.from_address(pointer).value
        return True

    def infer_shapes(self) -> list[str]:
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.spec.tensor(name).concrete(self.sizes)

    def update_device_memory_size_for_shapes(self) -> int:
        return 1 << 20

    def set_device_memory(self, pointer: int, nbytes: int) -> None: ...

    def execute_async_v3(self, stream: int) -> bool:
        return True


class IdleTensorRT:
    """Fills the `TensorRT` protocol."""

    version = "0"

    def __init__(self, engines: Mapping[str, tuple[GraphSpec, Profile]]) -> None:
        self.engines, self.messages = engines, list[str]()

    def load_engine(self, plan: bytes, graph: str) -> IdleEngine:
        return IdleEngine(*self.engines[graph])

    def create_context(self, engine: IdleEngine, graph: str, *, recorded: bool = False) -> IdleEngine:
        return self.load_engine(b"", graph)

    def host_inputs(self, engine: IdleEngine) -> frozenset[str]:
        return frozenset(engine.profile.values)

    def restore_kernels(self, content: bytes) -> None: ...

    def kernels(self) -> None: ...

    def close(self) -> None: ...


def idle_session(folder: Path, model: ModelSpec, limits: Limits) -> TensorRTSession:
    """Write a bundle of empty files with engines of its graphs, and open the real session on it.

    Args:
        folder: for the bundle; nothing is there yet.
        model: its sizes.
        limits: what the engines are built for.
    """
    description: Any = Description(model, "fp16", {}, opset=23, source="nothing", source_sha256=None, tools={})
    with Bundle.create(folder, description) as draft:
        recipe = Recipe.read("fp16")
        for spec in graph_specs(model, recipe.features, recipe.memory).values():
            draft.onnx_path(spec.name).write_bytes(spec.name.encode())
            draft.add(spec)
    bundle = Bundle.open(folder)
    engines = EngineFolder.at(bundle, FLAVOUR, IdleTensorRT.version, f"sm{IdleDevice.gpu.sm}")
    engines.folder.mkdir(parents=True)
    profiles = {name: graph_profile(spec, model, limits) for name, spec in bundle.specs.items()}
    for name, profile in profiles.items():
        path = engines.folder / f"{name}.engine"
        path.write_bytes(name.encode())
        record = EngineRecord(name, FileRecord.of(engines.folder, path), bundle.record(name).onnx.sha256, profile, limits, 0.0, "")
        engines = engines.with_record(record)
    tensorrt = IdleTensorRT({name: (bundle.specs[name], profile) for name, profile in profiles.items()})
    return TensorRTSession(bundle, flavour=FLAVOUR, device=IdleDevice(), tensorrt=tensorrt)
