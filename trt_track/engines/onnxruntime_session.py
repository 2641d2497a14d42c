"""ONNX Runtime on the CPU: the session that runs anywhere, and the door to ONNX Runtime."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernelError

from trt_track.engines.bfloat16_form import rewrite_bfloat16
from trt_track.engines.host_arrays import HostArrays
from trt_track.engines.host_memory import MemoryState, host_memory
from trt_track.errors import DeviceMemoryError, EngineRunError, TensorMismatchError
from trt_track.specs import GraphSpec

_log = logging.getLogger(__name__)

MAX_CPU_BATCH: Final = 4
"""Objects in one call at most: a larger batch saves nothing more on a CPU."""
_SCORES: Final = 64 << 20
"""Bytes of attention scores that a call for several objects may have: above, it is slower than one call for each."""
_MEMORY_FRAMES: Final = 7
"""Memories that a tracked object attends to, for the estimate of its scores."""

_SHORTAGE: Final = re.compile(
    r"[Ff]ailed to allocate memory for requested buffer|is smaller than requested bytes|out of memory|bad_alloc"
    r"|cudaMallocFromPoolAsync failed|ALLOC(ATION)?_FAILED"
)
"""How ONNX Runtime's arenas, CUDA and the libraries on top of it say that there is not enough memory; no status of its own means that."""

ELEMENT: dict[str, Any] = {name: np.dtype(name).type for name in ("uint8", "bool", "float16", "int32", "float32", "int64")}
ELEMENT["bfloat16"] = 16  # numpy has none: ONNX's number


def default_threads() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def session_options(threads: int, *, plan_memory: bool = True) -> ort.SessionOptions:
    """Return the options that every graph on the CPU is loaded with.

    Args:
        threads: cores to use.
        plan_memory: whether ONNX Runtime may lay out all work space of a size of the inputs as one block, which it keeps beside what its
            first run of that size took. A Grounding DINO of 544 x 960 pixels needs 3.1 GB with and 2.1 GB without, and the same time.
    """
    options = ort.SessionOptions()
    options.enable_mem_pattern = plan_memory
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that wait by spinning would take the core from the decoder and the writers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Softmax leaves many values under 1e-38 behind, and products with such numbers are several times slower.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    # Otherwise sums of INT8 products saturate, and come out wrong, on x86 cores that have no instruction for them (VNNI).
    options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def load_graph(
    name: str, path: Path, options: ort.SessionOptions, providers: Sequence[Any] = ("CPUExecutionProvider",)
) -> ort.InferenceSession:
    """Load an ONNX file for the execution providers of ONNX Runtime that are named, the first one first.

    bfloat16 for which it has no kernels is computed in float32 and rounded.

    Raises:
        EngineRunError: ONNX Runtime refused it; the message calls it `name`.
    """
    try:
        try:
            return ort.InferenceSession(str(path), options, providers=list(providers))
        except NoKernelError:
            if (rewritten := rewrite_bfloat16(path)) is None:
                raise
            _log.info("graph %s: bfloat16 is computed in float32 and rounded", name)
            return ort.InferenceSession(rewritten, options, providers=list(providers))
    except Exception as error:  # onnxruntime raises a type of its own for every status
        raise EngineRunError(f"ONNX Runtime cannot load graph {name!r}: {first_line(error)}") from error


def given_array(graph: str, name: str, arrays: Mapping[str, Any]) -> Any:
    """Return one of the arrays that a graph was given.

    Raises:
        TensorMismatchError: it was not given.
    """
    array = arrays.get(name)
    if array is None:
        raise TensorMismatchError(f"graph {graph!r} needs tensor {name!r}; got {', '.join(arrays)}")
    return array


def run_bound(graph: str, engine: Any, binding: Any, *options: ort.RunOptions) -> None:
    """Run a loaded graph on what is bound.

    Raises:
        DeviceMemoryError: there is not enough memory for it.
        EngineRunError: ONNX Runtime failed; the message calls it `graph`.
    """
    try:
        engine.run_with_iobinding(binding, *options)
    except Exception as error:  # see load_graph
        short = isinstance(error, MemoryError) or _SHORTAGE.search(str(error))
        kind = DeviceMemoryError if short else EngineRunError
        raise kind(f"graph {graph!r} failed in ONNX Runtime: {first_line(error)}") from error


def cpu_batch(specs: Mapping[str, GraphSpec]) -> int:
    """Return how many objects one call should carry on a CPU: 4 at 256 px, 2 at 512 px, 1 at 1024 px.

    Args:
        specs: contracts of a tracker's graphs, or of other ones.
    """
    attention = specs.get("memory_attention")
    if attention is None:
        return MAX_CPU_BATCH
    side = int(next(tensor.shape[-1] for tensor in attention.inputs if tensor.name == "embed"))
    scores: int = 4 * _MEMORY_FRAMES * side**4
    return max(1, min(MAX_CPU_BATCH, _SCORES // scores))


class OnnxRuntimeSession(HostArrays):
    """Fills the `Session` protocol with numpy arrays that ONNX Runtime reads and writes in place."""

    backend = "onnxruntime-cpu"
    version: str = ort.__version__
    device = "CPU"
    max_objects: int | None = None
    max_frames: int | None = None
    max_video_side: int | None = None

    def __init__(self, graphs: Mapping[str, tuple[GraphSpec, Path]], *, threads: int | None = None, plan_memory: bool = True) -> None:
        """Load every graph.

        Args:
            graphs: contract and ONNX file of each graph, by name.
            threads: cores to use, all that the process may use by default.
            plan_memory: see `session_options`; False for large graphs whose batches change their size.

        Raises:
            EngineRunError: ONNX Runtime refused a graph.
        """
        self.threads = threads or default_threads()
        self.specs: Mapping[str, GraphSpec] = {name: spec for name, (spec, _) in graphs.items()}
        self.max_batch = cpu_batch(self.specs)
        options = session_options(self.threads, plan_memory=plan_memory)
        self._engines = {name: _Graph(spec, path, options) for name, (spec, path) in graphs.items()}

    def run(self, graph: str, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None:
        """Run one graph; see `Session.run`.

        Raises:
            TensorMismatchError: a name, shape or dtype is not the contract's.
            EngineRunError: ONNX Runtime failed, or the session is closed.
        """
        if not self._engines:
            raise EngineRunError("the session is closed: a tracker that was closed cannot go on, open it again")
        self._engines[graph].run(inputs, outputs)

    def memory(self) -> MemoryState | None:
        """Return the state of the host's memory."""
        return host_memory()

    def close(self) -> None:
        """Free the graphs and their work space."""
        self._engines.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Graph:
    """One loaded graph."""

    def __init__(self, spec: GraphSpec, path: Path, options: ort.SessionOptions) -> None:
        self.spec = spec
        self.engine = load_graph(spec.name, path, options)
        self.known = {tensor.name for tensor in self.engine.get_inputs()}
        self.binding = self.engine.io_binding()

    def run(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Bind every array by name and address, and run."""
        sizes: dict[str, int] = {}
        binding = self.binding
        for tensor in self.spec.inputs:
            array = self._checked(tensor.name, inputs, sizes)
            if tensor.name in self.known:
                binding.bind_input(tensor.name, "cpu", 0, ELEMENT[tensor.dtype], array.shape, array.ctypes.data)
        for tensor in self.spec.outputs:
            array = self._checked(tensor.name, outputs, sizes)
            binding.bind_output(tensor.name, "cpu", 0, ELEMENT[tensor.dtype], array.shape, array.ctypes.data)
        run_bound(self.spec.name, self.engine, binding)

    def _checked(self, name: str, arrays: Mapping[str, Any], sizes: dict[str, int]) -> np.ndarray:
        array: np.ndarray = given_array(self.spec.name, name, arrays)
        if not array.flags.c_contiguous:
            raise TensorMismatchError(f"tensor {name!r} of graph {self.spec.name!r} must be contiguous")
        self.spec.tensor(name).check(array.shape, array.dtype.name, sizes)
        return array


def first_line(error: Exception) -> str:
    """Return what one of its errors says first."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
