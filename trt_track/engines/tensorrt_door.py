"""The door to TensorRT: the one file that touches `tensorrt` or `tensorrt_rtx`, and checks every False and None that they return."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol, TextIO, runtime_checkable

from trt_track.engines.profiles import Profile
from trt_track.errors import BackendError, EngineBuildError, EngineRunError
from trt_track.specs import GraphSpec

log = logging.getLogger(__name__)

MODULES: Final = {"tensorrt-rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}
"""Import name of each flavour."""
EXTRAS: Final = {"tensorrt-rtx": "rtx", "tensorrt": "tensorrt"}
"""The extra of this package that installs each flavour."""
DTYPES: Final = {
    "UINT8": "uint8",
    "BOOL": "bool",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT32": "int32",
    "FLOAT": "float32",
    "INT64": "int64",
}
LEVELS: Final = {
    "INTERNAL_ERROR": logging.ERROR,
    "ERROR": logging.ERROR,
    "WARNING": logging.DEBUG,  # TensorRT warns of every int64 input; the build log keeps them
    "INFO": logging.DEBUG,
    "VERBOSE": logging.NOTSET,
}


@runtime_checkable
class TensorRT(Protocol):
    """What a session needs of TensorRT; the tests' fake fits it too."""

    version: str
    messages: list[str]

    def load_engine(self, plan: bytes, graph: str) -> Any:
        """Deserialise an engine (`ICudaEngine`)."""

    def create_context(self, engine: Any, graph: str, *, recorded: bool = False) -> Any:
        """Create an execution context whose activation memory the caller provides (`IExecutionContext`).

        One whose runs will be recorded must not exchange its kernels for faster ones later.
        """

    def host_inputs(self, engine: Any) -> frozenset[str]:
        """Return the inputs that TensorRT reads on the host, because shapes depend on their values."""

    def restore_kernels(self, content: bytes) -> None:
        """Take kernels that an earlier process compiled, for contexts that are created from now on."""

    def kernels(self) -> bytes | None:
        """Return the kernels that were compiled on this machine so far; None where TensorRT compiles or keeps none."""

    def close(self) -> None:
        """Free the runtime and its kernels, once nothing holds its engines."""


def import_tensorrt(flavour: str) -> ModuleType:
    """Import one flavour of TensorRT.

    Raises:
        BackendError: unknown, not installed, or its libraries cannot be loaded.
    """
    if flavour not in MODULES:
        raise BackendError(f"TensorRT flavour {flavour!r} is unknown: choose one of {', '.join(MODULES)}")
    try:
        return importlib.import_module(MODULES[flavour])
    except ImportError as error:
        raise BackendError(f"{flavour} is not installed ({error}): pip install 'trt-track[{EXTRAS[flavour]}]'") from error
    except (OSError, RuntimeError) as error:  # the wheel is there, a library that it loads is not
        raise BackendError(f"{flavour} is installed but cannot be loaded: {error}") from error


def make_logger(trt: ModuleType, stream: TextIO | None = None) -> tuple[Any, list[str]]:
    """Make a TensorRT logger that writes to a file and to Python's logging.

    Args:
        trt: the TensorRT module.
        stream: where every message goes, or None.

    Returns:
        The logger, and a list that fills with the error messages of what it is used for.
    """
    errors: list[str] = []

    class EngineLog(trt.ILogger):  # type: ignore[misc, name-defined]  # the base class is known once a flavour was imported
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            level = LEVELS.get(severity.name, logging.DEBUG)
            if stream is not None and level != logging.NOTSET:
                stream.write(f"[{severity.name}] {message}\n")
            if level == logging.ERROR:
                errors.append(message)
            log.log(min(level, logging.INFO) or logging.DEBUG, "%s: %s", severity.name, message)

    return EngineLog(), errors


class TensorRTRuntime:
    """Loads engines of one flavour on the current GPU."""

    def __init__(self, flavour: str) -> None:
        """Start TensorRT's runtime.

        Raises:
            BackendError: the flavour is not installed, or finds no GPU.
        """
        self.trt = import_tensorrt(flavour)
        self.version: str = self.trt.__version__
        self.logger, self.messages = make_logger(self.trt)
        self._stored_kernels = b""
        self._kernels: Any = None
        self.runtime = self.trt.Runtime(self.logger)
        if self.runtime is None:
            raise BackendError(f"{flavour} could not start: {last_message(self.messages)}")

    def load_engine(self, plan: bytes, graph: str) -> Any:
        """Deserialise an engine.

        Raises:
            EngineRunError: TensorRT refused it.
        """
        engine = self.runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineRunError(f"engine {graph!r} cannot be loaded: {last_message(self.messages)}")
        return engine

    def create_context(self, engine: Any, graph: str, *, recorded: bool = False) -> Any:
        """Create an execution context without activation memory of its own.

        TensorRT for RTX compiles kernels for the sizes that it meets in the background and uses slower ones until then. A context whose
        runs are recorded waits for them instead, or the recording would keep the slower ones.

        Raises:
            EngineRunError: TensorRT refused.
        """
        strategy = self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if hasattr(self.trt, "IRuntimeCache"):  # TensorRT for RTX
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            if recorded:
                config.dynamic_shapes_kernel_specialization_strategy = self.trt.DynamicShapesKernelSpecializationStrategy.EAGER
            self._share_kernels(config)
            context = engine.create_execution_context(config)
        else:
            context = engine.create_execution_context(strategy)
        if context is None:
            raise EngineRunError(f"engine {graph!r} got no execution context: {last_message(self.messages)}")
        return context

    def _share_kernels(self, config: Any) -> None:
        """Let a context use and add to the kernels that all engines of this runtime share."""
        if self._kernels is None:
            self._kernels = config.create_runtime_cache()
            if self._kernels is not None and self._stored_kernels and not self._kernels.deserialize(self._stored_kernels):
                log.info("kernels of an earlier run do not fit this machine any more: they are compiled again")
        if self._kernels is not None and not config.set_runtime_cache(self._kernels):
            log.info("TensorRT does not keep compiled kernels: %s", last_message(self.messages))

    def restore_kernels(self, content: bytes) -> None:
        """Take what `kernels` returned in an earlier process; what does not fit this machine is not used."""
        self._stored_kernels = content

    def kernels(self) -> bytes | None:
        """Return the kernels compiled so far, None where there are none."""
        memory = None if self._kernels is None else self._kernels.serialize()
        return bytes(memoryview(memory)) if memory is not None and memory.nbytes else None

    def close(self) -> None:
        """Let go of the runtime and of its kernels: TensorRT frees them with their last holder."""
        self._kernels = self.runtime = None

    def host_inputs(self, engine: Any) -> frozenset[str]:
        """Return the inputs whose values TensorRT reads on the host."""
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        modes = {name: engine.get_tensor_mode(name) for name in names}
        inputs = [name for name in names if modes[name] == self.trt.TensorIOMode.INPUT]
        return frozenset(name for name in inputs if engine.get_tensor_location(name) == self.trt.TensorLocation.HOST)


class GraphCompiler:
    """Compiles one ONNX graph after another with one flavour of TensorRT."""

    def __init__(self, flavour: str) -> None:
        """Import the flavour.

        Raises:
            BackendError: it is not installed.
        """
        self.flavour = flavour
        self.trt = import_tensorrt(flavour)
        self.version: str = self.trt.__version__

    @property
    def targets(self) -> tuple[str, ...]:
        """GPU families that can be compiled for ahead of time: "sm75", ...; empty for full TensorRT."""
        members = getattr(self.trt, "ComputeCapability", None)
        names = () if self.flavour != "tensorrt-rtx" or members is None else members.__members__
        return tuple(name.lower() for name in names if name.startswith("SM"))

    def compile(self, model: Path | bytes, spec: GraphSpec, profile: Profile, *, target: str, stream: TextIO) -> memoryview:
        """Compile one graph.

        Args:
            model: the ONNX file, or its content.
            spec: its contract, which the parsed network must meet.
            profile: the sizes to compile for.
            target: one of `targets`, "all", or the family of the GPU that is present.
            stream: where TensorRT's messages go.

        Returns:
            The serialised engine.

        Raises:
            EngineBuildError: TensorRT refused the graph; the message names the node.
        """
        logger, errors = make_logger(self.trt, stream)
        builder = self.trt.Builder(logger)
        _require(builder, spec.name, "TensorRT's builder could not start", errors)
        network = builder.create_network(1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        _require(network, spec.name, "TensorRT's builder made no network", errors)
        _parse(self.trt.OnnxParser(network, logger), model, spec.name)
        _check_contract(network, spec)
        config = builder.create_builder_config()
        config.clear_flag(self.trt.BuilderFlag.TF32)  # FP32 means FP32: TF32 keeps 10 bits, labels and logits need 23
        if hasattr(self.trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):  # of TensorRT for RTX: what allocates while it runs cannot be recorded
            config.set_flag(self.trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        self._set_target(config, target, spec.name)
        self._add_profile(builder, config, network, (spec, profile), errors)
        plan = builder.build_serialized_network(network, config)
        _require(plan, spec.name, f"TensorRT cannot compile it for {target}", errors)
        return memoryview(plan)

    def _set_target(self, config: Any, target: str, graph: str) -> None:
        if self.flavour != "tensorrt-rtx" or target == "all":
            return  # full TensorRT compiles for the GPU that is present
        capability = self.trt.ComputeCapability.__members__.get(target.upper(), self.trt.ComputeCapability.CURRENT)
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(capability, 0):
            raise EngineBuildError(f"graph {graph!r}: {self.flavour} {self.version} does not compile for {target}")

    def _add_profile(self, builder: Any, config: Any, network: Any, wanted: tuple[GraphSpec, Profile], errors: Sequence[str]) -> None:
        spec, sizes = wanted
        profile = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            if tensor.is_shape_tensor:
                if tensor.name not in sizes.values:
                    raise EngineBuildError(f"graph {spec.name!r}: shapes depend on the values of {tensor.name!r}, which has no range")
                profile.set_shape_input(tensor.name, *((value,) for value in sizes.values[tensor.name]))
            else:
                profile.set_shape(tensor.name, *sizes.shapes[tensor.name])
        if not profile or config.add_optimization_profile(profile) < 0:
            raise EngineBuildError(f"graph {spec.name!r}: TensorRT refuses the sizes {sizes}: {last_message(errors)}")


def last_message(errors: Sequence[str]) -> str:
    """Return the last error that tells something of its own, in one line: a missing driver is noted beside every error."""
    lines = [line for message in errors for line in (message if "catchCudaError" in message else " ".join(message.split())).splitlines()]
    telling = [line for line in lines if "catchCudaError" not in line] or lines
    return telling[-1].strip() if telling else "TensorRT gave no reason"


def _require(thing: Any, graph: str, what: str, errors: Sequence[str]) -> None:
    if thing is None:
        raise EngineBuildError(f"graph {graph!r}: {what}: {last_message(errors)}")


def _parse(parser: Any, model: Path | bytes, graph: str) -> None:
    if parser.parse(model) if isinstance(model, bytes) else parser.parse_from_file(str(model)):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    nodes = [f"node {error.node_name() or '?'!r} ({error.node_operator()}): {last_message([error.desc()])}" for error in errors]
    raise EngineBuildError(f"graph {graph!r}: TensorRT cannot read it: {'; '.join(nodes) or 'no reason given'}")


def _check_contract(network: Any, spec: GraphSpec) -> None:
    """Compare what TensorRT read with the contract: names, ranks, fixed sizes and dtypes."""
    sides: tuple[tuple[int, Callable[[int], Any], Sequence[Any]], ...] = (
        (network.num_inputs, network.get_input, spec.inputs),
        (network.num_outputs, network.get_output, spec.outputs),
    )
    for count, get, tensors in sides:
        found = {tensor.name: tensor for tensor in (get(index) for index in range(count))}
        for tensor in tensors:
            got = found.pop(tensor.name, None)
            if got is None:
                raise EngineBuildError(f"graph {spec.name!r} lacks tensor {tensor.name!r}: export it again")
            fixed = all(dim in (-1, want) for dim, want in zip(got.shape, tensor.shape, strict=False) if not isinstance(want, str))
            dtype = DTYPES.get(got.dtype.name, got.dtype.name)
            if len(got.shape) != len(tensor.shape) or not fixed or dtype != tensor.dtype:
                raise EngineBuildError(f"graph {spec.name!r}: tensor {tensor.name!r} should be {tensor}, is {dtype}{list(got.shape)}")
        if found:
            raise EngineBuildError(f"graph {spec.name!r} has tensors that its contract does not name: {', '.join(found)}")
