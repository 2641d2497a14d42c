"""One TensorRT engine and what is bound to it: shapes and addresses by name, set only when they change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from trt_track.engines.device_memory import DeviceArray, Workspace
from trt_track.engines.tensorrt_door import TensorRT, last_message
from trt_track.errors import EngineRunError, TensorMismatchError
from trt_track.specs import GraphSpec

Arrays: TypeAlias = Mapping[str, DeviceArray]
Signature: TypeAlias = tuple[tuple[Any, ...], ...]


class BoundEngine:
    """One loaded engine with its execution context and what is bound to it."""

    def __init__(self, spec: GraphSpec, engine: Any, *, tensorrt: TensorRT, workspace: Workspace, recorded: bool = False) -> None:
        """Open an execution context.

        Args:
            spec: contract of the graph.
            engine: what `TensorRT.load_engine` returned for it.
            tensorrt: the runtime that loaded it.
            workspace: where it works; shared with engines that never run at the same time.
            recorded: whether its runs will be recorded as a part of a CUDA graph.

        Raises:
            EngineRunError: TensorRT refused.
        """
        self.spec = spec
        self.engine = engine
        self.context = tensorrt.create_context(engine, spec.name, recorded=recorded)
        self._messages = tensorrt.messages
        self._workspace = workspace
        self._lent = 0
        self._needed_bytes = 0
        host = tensorrt.host_inputs(engine)
        # TensorRT keeps the address and reads the value at each enqueue: these arrays live as long as the context.
        self._host = {tensor.name: np.zeros(1, tensor.dtype) for tensor in spec.inputs if tensor.name in host}
        self._addresses: dict[str, int] = {}
        self._known: set[Signature] = set()
        self._bound: Signature | None = None

    def bind(self, inputs: Arrays, outputs: Arrays, host_values: Mapping[int, int]) -> None:
        """Set whatever changed since the last run; shapes, dtypes and sizes are validated when they are first seen together.

        Args:
            inputs: one array per input of the contract.
            outputs: one array per output.
            host_values: values of arrays with one element, by address, for inputs that shapes depend on.

        Raises:
            TensorMismatchError: a name, shape or dtype is not the contract's, or outside what the engine was built for.
            EngineRunError: TensorRT refused.
        """
        values = self._read_host_values(inputs, host_values) if self._host else ()
        signature: Signature = (*_shapes(inputs), *_shapes(outputs), values)
        if signature not in self._known:
            self._validate(inputs, outputs)
        if signature != self._bound:
            self._bound = None
            self._set_shapes(inputs, outputs, values)
            self._known.add(signature)
            self._bound = signature
        self._borrow_workspace()
        self._set_addresses(inputs)
        self._set_addresses(outputs)

    def needed_bytes(self, sizes: Mapping[str, int]) -> int:
        """Return the work space that a run with such sizes would need; what is bound is forgotten.

        Args:
            sizes: every named size of the inputs, and by their names the values of inputs that shapes depend on.

        Raises:
            TensorMismatchError: TensorRT refuses a size.
            EngineRunError: TensorRT cannot tell.
        """
        self._bound = None
        nowhere = {tensor.name: DeviceArray(0, tensor.concrete(sizes), tensor.dtype) for tensor in self.spec.inputs}
        self._set_inputs(nowhere, [sizes[name] for name in self._host])
        return self._ask_needed_bytes()

    def enqueue(self, stream: int) -> None:
        """Ask for a run with what is bound.

        Raises:
            EngineRunError: TensorRT refused.
        """
        if not self.context.execute_async_v3(stream):
            raise EngineRunError(f"engine {self.spec.name!r} failed to run: {last_message(self._messages)}")

    def can_be_recorded(self, stream: int) -> bool:
        """Whether a run with what is bound can be recorded on a stream; full TensorRT has no such question and says so when it fails."""
        asked = getattr(self.context, "is_stream_capturable", None)
        return asked is None or bool(asked(stream))

    def _read_host_values(self, inputs: Arrays, host_values: Mapping[int, int]) -> tuple[int, ...]:
        values = []
        for name in self._host:
            array = inputs.get(name)
            if array is None or array.pointer not in host_values:
                raise TensorMismatchError(
                    f"graph {self.spec.name!r}: shapes depend on the value of input {name!r}: upload it before the run"
                )
            values.append(host_values[array.pointer])
        return tuple(values)

    def _validate(self, inputs: Arrays, outputs: Arrays) -> None:
        """Compare names, shapes and dtypes with the contract, and the sizes with what the engine was built for."""
        sizes: dict[str, int] = {}
        for arrays, tensors in ((inputs, self.spec.inputs), (outputs, self.spec.outputs)):
            names = {tensor.name for tensor in tensors}
            if arrays.keys() != names:
                odd = ", ".join(sorted(arrays.keys() ^ names))
                raise TensorMismatchError(f"graph {self.spec.name!r} takes {', '.join(sorted(names))}: missing or unknown is {odd}")
            for tensor in tensors:
                tensor.check(arrays[tensor.name].shape, arrays[tensor.name].dtype, sizes)
        for tensor in self.spec.inputs:
            if tensor.name not in self._host:
                self._check_range(tensor.name, inputs[tensor.name].shape)

    def _check_range(self, name: str, shape: tuple[int, ...]) -> None:
        fewest, _, most = self.engine.get_tensor_profile_shape(name, 0)
        if not all(low <= size <= high for low, size, high in zip(fewest, shape, most, strict=True)):
            built = f"{list(fewest)} to {list(most)}"
            raise TensorMismatchError(f"graph {self.spec.name!r}: input {name!r} is {list(shape)}, its engine was built for {built}")

    def _set_inputs(self, inputs: Arrays, values: Sequence[int]) -> None:
        for (name, buffer), value in zip(self._host.items(), values, strict=True):
            buffer[0] = value
            self._set_address(name, buffer.ctypes.data)
        for name, array in inputs.items():
            if name not in self._host and not self.context.set_input_shape(name, array.shape):
                raise TensorMismatchError(f"graph {self.spec.name!r}: TensorRT refuses {array} for input {name!r}: {self._reason()}")
        self._infer_shapes()

    def _set_shapes(self, inputs: Arrays, outputs: Arrays, values: tuple[int, ...]) -> None:
        self._set_inputs(inputs, values)
        for name, array in outputs.items():
            expected = tuple(self.context.get_tensor_shape(name))
            if expected != array.shape:
                raise TensorMismatchError(f"graph {self.spec.name!r}: output {name!r} becomes {list(expected)}, {array} was given")

        self._needed_bytes = self._ask_needed_bytes()
        self._lent = 0

    def _ask_needed_bytes(self) -> int:
        """Let TensorRT lay out its work space for the shapes that were set."""
        nbytes = int(self.context.update_device_memory_size_for_shapes())
        if nbytes < 0:
            raise EngineRunError(f"engine {self.spec.name!r} cannot tell how much memory it needs: {self._reason()}")
        return nbytes

    def _borrow_workspace(self) -> None:
        if self._needed_bytes == 0:
            return
        self._workspace.grow(self._needed_bytes)
        if self._lent != self._workspace.pointer:
            told = len(self._messages)
            self.context.set_device_memory(self._workspace.pointer, self._workspace.nbytes)
            if len(self._messages) > told:  # the call returns nothing, a refusal is only logged
                raise EngineRunError(f"engine {self.spec.name!r} refuses {self._workspace.nbytes} bytes to work in: {self._reason()}")
            self._lent = self._workspace.pointer

    def _infer_shapes(self) -> None:
        try:
            unset = self.context.infer_shapes()
        except RuntimeError as error:
            raise EngineRunError(f"engine {self.spec.name!r} cannot tell its output sizes: {self._reason()}") from error
        if unset:
            raise EngineRunError(f"engine {self.spec.name!r} lacks the sizes of {', '.join(unset)}: {self._reason()}")

    def _set_addresses(self, arrays: Arrays) -> None:
        known = self._addresses
        for name, array in arrays.items():
            if known.get(name) != array.pointer and name not in self._host:
                self._set_address(name, array.pointer)
                known[name] = array.pointer

    def _set_address(self, name: str, pointer: int) -> None:
        if not self.context.set_tensor_address(name, pointer):
            raise EngineRunError(f"engine {self.spec.name!r}: TensorRT refuses an address for tensor {name!r}: {self._reason()}")

    def _reason(self) -> str:
        return last_message(self._messages)


def _shapes(arrays: Arrays) -> tuple[tuple[Any, ...], ...]:
    return tuple((name, array.shape, array.dtype) for name, array in arrays.items())
