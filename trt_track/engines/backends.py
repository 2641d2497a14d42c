"""Which backend can be used on this machine, which one is chosen, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Final

from trt_track.engines.bundle import Bundle
from trt_track.engines.device_memory import Gpu
from trt_track.engines.engine_record import find_engines, sm_name
from trt_track.engines.session import Lane, Session
from trt_track.engines.tensorrt_door import MODULES, import_tensorrt
from trt_track.errors import BackendError, BundleError, EngineMismatchError, EngineRunError
from trt_track.specs import ModelSpec

AUTO: Final = "auto"
CPU: Final = "onnxruntime-cpu"
CUDA: Final = "onnxruntime-cuda"
BACKENDS: Final = (*MODULES, CUDA, CPU)
"""All backends, the one to prefer first."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found on a machine: versions, and reasons where something is missing."""

    versions: Mapping[str, str]
    """Version of the library behind each backend that can be imported."""
    faults: Mapping[str, str]
    """Why the library behind a backend cannot be used."""
    gpu: Gpu | None
    gpu_fault: str
    """Why there is no GPU; empty when there is one."""


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """Whether a backend can be used on this machine, whatever the bundle."""

    name: str
    usable: bool
    reason: str
    """Why not, or what it runs on."""
    version: str | None
    """Version of its library; None when that is missing."""


def inspect_machine() -> Machine:
    """Look which libraries can be imported and whether a GPU is there."""
    versions, faults = {}, {}
    for flavour in MODULES:
        try:
            versions[flavour] = str(import_tensorrt(flavour).__version__)
        except BackendError as error:
            faults[flavour] = str(error)
    try:
        versions[CPU] = versions[CUDA] = _onnxruntime_version()
    except BackendError as error:
        faults[CPU] = faults[CUDA] = str(error)
    try:
        return Machine(versions, faults, _find_gpu(), "")
    except BackendError as error:
        return Machine(versions, faults, None, str(error))


def available_backends(machine: Machine | None = None) -> list[BackendStatus]:
    """Return every backend with whether it can be used and why, the one to prefer first.

    Args:
        machine: what `inspect_machine` found; it looks again when None.
    """
    found = machine or inspect_machine()
    return [_status(name, found) for name in BACKENDS]


def choose_backend(name: str, bundle: Bundle, machine: Machine | None = None) -> tuple[str, str]:
    """Choose what runs a bundle.

    Args:
        name: one of `BACKENDS`, or "auto" for the best that can really be used.
        bundle: the opened bundle; a TensorRT backend needs its engines for this GPU in it.
        machine: what `inspect_machine` found; it looks again when None.

    Returns:
        The backend and, in one line, why it was chosen.

    Raises:
        BackendError: the named backend is unknown or cannot be used, or none can.
    """
    found = machine or inspect_machine()
    if name != AUTO:
        return name, _explain_named(name, bundle, found)
    passed_over: dict[str, list[str]] = {}
    for candidate in BACKENDS:
        fault = _fault(candidate, bundle, found)
        if fault is None:
            why = _told(passed_over) or "the fastest that this machine has"
            return candidate, f"{candidate} {found.versions[candidate]} on {_place(candidate, found)} ({why})"
        passed_over.setdefault(fault, []).append(candidate)
    raise BackendError(f"no backend can be used: {_told(passed_over)}")


def _told(passed_over: Mapping[str, Sequence[str]]) -> str:
    """Say which backends were passed over, those with the same fault together."""
    return "; ".join(
        f"{' and '.join(names)} {'was' if len(names) == 1 else 'were'} passed over: {why}" for why, names in passed_over.items()
    )


def runs_on_gpu(bundle: Bundle, machine: Machine, backend: str = AUTO) -> bool:
    """Tell whether a bundle has engines that can be used on a machine.

    Args:
        bundle: the opened bundle.
        machine: what `inspect_machine` found.
        backend: the only one that may use them, or "auto" for any.
    """
    return any(_fault(name, bundle, machine) is None for name in MODULES if backend in {AUTO, name})


def open_session(bundle: Bundle, backend: str = AUTO, threads: int | None = None) -> Session:
    """Choose a backend and open a session on it.

    Args:
        bundle: the opened bundle.
        backend: one of `BACKENDS`, or "auto".
        threads: cores for ONNX Runtime, all by default.

    Raises:
        BackendError: the backend cannot be used.
        BundleError: an ONNX file is missing or was changed.
        EngineError: an engine could not be loaded.
    """
    name, _ = choose_backend(backend, bundle)
    return open_chosen(bundle, name, threads)


def open_chosen(bundle: Bundle, name: str, threads: int | None = None) -> Session:
    """Open a session on the backend that `choose_backend` named, without looking at the machine again.

    Args:
        bundle: the opened bundle.
        name: one of `BACKENDS`.
        threads: cores for ONNX Runtime, all by default.

    Raises:
        BundleError: an ONNX file is missing or was changed.
        EngineError: an engine could not be loaded.
    """
    graphs = {graph: (spec, bundle.onnx_path(graph)) for graph, spec in bundle.specs.items()} if name in {CPU, CUDA} else {}
    if name == CUDA:
        from trt_track.engines.onnxruntime_cuda_session import OnnxRuntimeCudaSession

        return OnnxRuntimeCudaSession(graphs)
    if name == CPU:
        from trt_track.engines.onnxruntime_session import OnnxRuntimeSession

        return OnnxRuntimeSession(graphs, threads=threads, plan_memory=isinstance(bundle.manifest.description.model, ModelSpec))
    from trt_track.engines.tensorrt_session import TensorRTSession

    return TensorRTSession(bundle, flavour=name)


def _status(name: str, machine: Machine) -> BackendStatus:
    version = machine.versions.get(name)
    fault = _machine_fault(name, machine)
    return BackendStatus(name, fault is None, fault or f"runs on {_place(name, machine)}", version)


def _explain_named(name: str, bundle: Bundle, machine: Machine) -> str:
    if name not in BACKENDS:
        raise BackendError(f"backend {name!r} is unknown: choose one of {', '.join((AUTO, *BACKENDS))}")
    fault = _fault(name, bundle, machine)
    if fault is not None:
        raise BackendError(f"backend {name} cannot be used: {fault}")
    return f"{name} {machine.versions[name]} on {_place(name, machine)} (as asked for)"


def _fault(name: str, bundle: Bundle, machine: Machine) -> str | None:
    """Say why a backend cannot run this bundle here; None when it can."""
    fault = _machine_fault(name, machine)
    if fault is not None or name == CPU or machine.gpu is None:
        return fault
    if name == CUDA:
        return _cuda_fault(bundle)
    try:
        find_engines(bundle, flavour=name, version=machine.versions[name], sm=machine.gpu.sm)
    except (EngineMismatchError, BundleError) as error:
        return str(error)
    return None


def _cuda_fault(bundle: Bundle) -> str | None:
    """Load the bundle's smallest graph with CUDA: whether ONNX Runtime can use it shows only then."""
    from trt_track.engines.cuda_door import CudaDevice
    from trt_track.engines.onnxruntime_cuda_session import load_cuda_graph

    smallest = min(bundle.specs, key=lambda graph: bundle.record(graph).onnx.bytes)
    try:
        device = CudaDevice()
        try:
            load_cuda_graph(smallest, bundle.onnx_path(smallest), device.stream(Lane.TRACK))
        finally:
            device.close()
    except (BackendError, BundleError, EngineRunError) as error:
        return str(error)
    return None


def _machine_fault(name: str, machine: Machine) -> str | None:
    if name in machine.faults:
        return machine.faults[name]
    return machine.gpu_fault or None if name != CPU else None


def _place(name: str, machine: Machine) -> str:
    if name == CPU or machine.gpu is None:
        return "the CPU"
    return f"{machine.gpu.name}, {sm_name(machine.gpu.sm)}"


def _find_gpu() -> Gpu:
    from trt_track.engines.cuda_door import find_gpu

    return find_gpu()


def _onnxruntime_version() -> str:
    """Import ONNX Runtime through its door and return its version."""
    try:
        from trt_track.engines import onnxruntime_session  # noqa: F401
    except (ImportError, OSError) as error:
        raise BackendError(f"ONNX Runtime cannot be imported: {error}") from error
    for package in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"
