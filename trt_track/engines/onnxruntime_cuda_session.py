"""ONNX Runtime on an NVIDIA GPU: for GPUs that no engine was built for, such as those which TensorRT for RTX leaves out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import onnxruntime as ort

from trt_track.engines.bound_engine import Arrays
from trt_track.engines.device_arrays import DeviceArrays
from trt_track.engines.device_memory import Device
from trt_track.engines.onnxruntime_session import ELEMENT, given_array, load_graph, run_bound, session_options
from trt_track.engines.session import Lane, home_lane
from trt_track.errors import BackendError, TensorMismatchError
from trt_track.specs import GraphSpec

_log = logging.getLogger(__name__)

PROVIDER: Final = "CUDAExecutionProvider"
_CPU_PROVIDER: Final = "CPUExecutionProvider"
_SETTINGS: Final = {
    "device_id": "0",
    "use_tf32": "0",  # FP32 means FP32: TF32 keeps 10 bits
    "cudnn_conv_algo_search": "HEURISTIC",  # the exhaustive search would begin anew for every number of objects
    "arena_extend_strategy": "kSameAsRequested",  # the arena grows to powers of two otherwise, which takes memory from larger batches
}
_SIZE_OPERATORS: Final = frozenset(
    {
        *("Add", "Cast", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Gather", "Greater", "Max", "Min", "Mul", "Range"),
        *("Reshape", "Shape", "Size", "Slice", "Squeeze", "Sub", "Unsqueeze", "Where"),
    }
)
"""What sizes are computed with."""
_ANY_BATCH: Final = 1 << 16
"""As many objects as the limits and the memory allow."""
Load: TypeAlias = Callable[[str, Path, int], Any]
"""From a graph's name, its ONNX file and the handle of a CUDA stream to an `InferenceSession`."""


def load_cuda_graph(name: str, path: Path, stream: int) -> ort.InferenceSession:
    """Load an ONNX file for the first GPU, to compute on a stream.

    Raises:
        BackendError: ONNX Runtime cannot use CUDA.
        EngineRunError: ONNX Runtime refused the graph; the message calls it `name`.
    """
    if PROVIDER not in ort.get_available_providers():
        raise BackendError("this ONNX Runtime knows no CUDA: pip uninstall onnxruntime, then pip install onnxruntime-gpu")
    ort.preload_dlls()  # CUDA and cuDNN of pip's packages, if they are there
    options = session_options(threads=1)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    loaded = load_graph(name, path, options, [(PROVIDER, {**_SETTINGS, "user_compute_stream": str(stream)}), _CPU_PROVIDER])
    if PROVIDER not in loaded.get_providers():
        raise BackendError("ONNX Runtime cannot load its CUDA provider: pip install 'trt-track[cuda]'")
    if strays := cpu_operators(loaded):
        told = ", ".join(f"{count} {operator}" for operator, count in strays.items())
        _log.warning("graph %s: ONNX Runtime has no CUDA kernels for %s: they run on the CPU, with copies there and back", name, told)
    return loaded


def cpu_operators(loaded: Any) -> Counter[str]:
    """Count what ONNX Runtime placed on the CPU, by operator, without what computes sizes and belongs there.

    It says so only of sessions that were made to record it, from version 1.24 on. To have it refuse instead
    (`session.disable_cpu_ep_fallback`) is not possible: the sizes in our graphs are computed on the CPU by its own rule.
    """
    if not hasattr(loaded, "get_provider_graph_assignment_info"):
        return Counter()
    parts = [part for part in loaded.get_provider_graph_assignment_info() if part.ep_name == _CPU_PROVIDER]
    return Counter(node.op_type for part in parts for node in part.get_nodes() if node.op_type not in _SIZE_OPERATORS)


class OnnxRuntimeCudaSession(DeviceArrays):
    """Fills the `Session` protocol with ONNX Runtime's CUDA provider, which reads and writes arrays in GPU memory in place.

    Nothing is recorded: ONNX Runtime launches its kernels one by one, as its own CUDA graphs have fixed addresses.
    """

    backend = "onnxruntime-cuda"
    version: str = ort.__version__
    max_batch = _ANY_BATCH  # in FP32 an object's attention scores take 471 MB at 1024 px: where memory is short, batches get smaller
    max_objects: int | None = None
    max_frames: int | None = None
    max_video_side: int | None = None

    def __init__(self, graphs: Mapping[str, tuple[GraphSpec, Path]], *, device: Device | None = None, load: Load = load_cuda_graph) -> None:
        """Load every graph.

        Args:
            graphs: contract and ONNX file of each graph, by name.
            device: the GPU, the first one when None.
            load: loads one of them.

        Raises:
            BackendError: the driver or the GPU is missing, or ONNX Runtime cannot use CUDA.
            EngineRunError: ONNX Runtime refused a graph.
        """
        super().__init__(device)
        self._engines: dict[str, _Graph] = {}
        try:
            self.device = self._device.gpu.name
            self.specs: Mapping[str, GraphSpec] = {name: spec for name, (spec, _) in graphs.items()}
            for name, (spec, path) in graphs.items():
                lane = home_lane(name)
                self._engines[name] = _Graph(spec, load(name, path, self._device.stream(lane)), lane)
            self._meetings = {lane: self._device.event() for lane in Lane}
        except BaseException:
            self.close()
            raise

    def run(self, graph: str, inputs: Arrays, outputs: Arrays) -> None:
        """Ask the GPU to run one graph; see `Session.run`.

        Raises:
            TensorMismatchError: a name, shape or dtype is not the contract's.
            DeviceMemoryError: there is not enough memory for it.
            EngineRunError: ONNX Runtime failed, or the session is closed.
        """
        self._check_open()
        if graph not in self._engines:
            raise TensorMismatchError(f"the session has no graph {graph!r}; it has {', '.join(self._engines)}")
        loaded = self._engines[graph]
        self._order(self._lane, loaded.lane)
        loaded.run(inputs, outputs, self._host_values)
        self._order(loaded.lane, self._lane)

    def recorded(self, key: object, body: Callable[[], None]) -> None:
        """Do what `body` asks for."""
        body()

    def _order(self, first: Lane, then: Lane) -> None:
        """Let one lane wait for another: a graph computes on the stream that it was loaded for."""
        if first != then:
            self._device.record(self._meetings[first], first)
            self._device.after(self._meetings[first], then)

    def _free(self) -> None:
        self._engines.clear()


class _Graph:
    """One loaded graph."""

    def __init__(self, spec: GraphSpec, engine: Any, lane: Lane) -> None:
        self.spec, self.engine, self.lane = spec, engine, lane
        self.known = {tensor.name for tensor in engine.get_inputs()}
        self.binding = engine.io_binding()
        self.options = ort.RunOptions()
        self.options.add_run_config_entry("disable_synchronize_execution_providers", "1")  # the loop waits where it needs to
        self._sizes: dict[str, np.ndarray] = {}
        """Inputs that shapes depend on, which ONNX Runtime reads on the host, as they were bound."""

    def run(self, inputs: Arrays, outputs: Arrays, host_values: Mapping[int, int]) -> None:
        """Bind every array by name and address, and ask for a run."""
        sizes: dict[str, int] = {}
        for tensor in self.spec.inputs:
            array = self._checked(tensor.name, inputs, sizes)
            if tensor.name not in self.known:
                continue
            if array.pointer in host_values:
                self._sizes[tensor.name] = np.array([host_values[array.pointer]], array.dtype)
                self.binding.bind_cpu_input(tensor.name, self._sizes[tensor.name])
            else:
                self.binding.bind_input(tensor.name, "cuda", 0, ELEMENT[tensor.dtype], array.shape, array.pointer)
        for tensor in self.spec.outputs:
            array = self._checked(tensor.name, outputs, sizes)
            self.binding.bind_output(tensor.name, "cuda", 0, ELEMENT[tensor.dtype], array.shape, array.pointer)
        run_bound(self.spec.name, self.engine, self.binding, self.options)

    def _checked(self, name: str, arrays: Arrays, sizes: dict[str, int]) -> Any:
        array = given_array(self.spec.name, name, arrays)
        self.spec.tensor(name).check(array.shape, array.dtype, sizes)
        return array
