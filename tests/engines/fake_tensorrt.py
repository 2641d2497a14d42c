"""A TensorRT whose engines are Python functions on the fake GPU, and which insists on the order of calls that the real one asks for."""

import ctypes
import math

import numpy as np
from fake_gpu import ALIGNMENT, FIRST_ADDRESS, Work, misuse_unless

from trt_track.specs import DTYPE_BYTES

DIRTY = 0x5A
"""What a run leaves in its work space."""


class FakeEngine:
    """An engine: a contract, the sizes that it was built for, and the function that it computes, from arrays by name to arrays by name."""

    def __init__(self, spec, profile, compute, bytes_per_object):
        self.spec, self.profile, self.compute, self.bytes_per_object = spec, profile, compute, bytes_per_object

    def get_tensor_profile_shape(self, name, index):
        misuse_unless(index == 0, "there is one profile")
        return [list(shape) for shape in self.profile.shapes[name]]


class FakeContext:
    """An execution context on the fake GPU; `refuse` names what it refuses to do, as TensorRT may."""

    def __init__(self, engine, device, log, messages):
        self.engine, self.device, self.log, self.messages = engine, device, log, messages
        self.host = frozenset(engine.profile.values)
        self.shapes, self.addresses, self.memory, self.memory_bytes = {}, {}, None, 0
        self.laid_out = None
        """Shapes of all outputs and bytes of work space, as of the last layout."""
        self.inferred = False
        self.changes, self.ran, self.lane = 0, None, None
        """How often it was changed, how often it had been when it ran last, and the lane that it runs on."""
        self.refuse = set()

    def note(self, *call):
        self.device.check_open()
        self.changes += call[0] != "run"
        self.log.append((self.engine.spec.name, *call))

    def is_stream_capturable(self, stream):
        self.device.lane_of(stream)
        return "capture" not in self.refuse

    def set_input_shape(self, name, shape):
        self.note("shape", name, tuple(shape))
        misuse_unless(name in {tensor.name for tensor in self.engine.spec.inputs} - self.host, f"{name} is no input with a shape")
        fewest, _, most = self.engine.profile.shapes[name]
        fits = len(shape) == len(most) and all(low <= size <= high for low, size, high in zip(fewest, shape, most, strict=True))
        if "shape" in self.refuse or not fits:
            return False
        self.inferred, self.laid_out = False, None
        self.shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name, pointer):
        self.note("address", name)
        self.engine.spec.tensor(name)
        if name in self.host:
            misuse_unless(0 < pointer < FIRST_ADDRESS, f"{name} is read on the host, its address is the GPU's")
            self.inferred, self.laid_out = False, None
        else:
            misuse_unless(pointer >= FIRST_ADDRESS, f"{name} lies on the GPU, its address is the host's")
            misuse_unless(pointer % ALIGNMENT == 0, f"{name} is not aligned to {ALIGNMENT} bytes")
        self.addresses[name] = pointer
        return "address" not in self.refuse

    def infer_shapes(self):
        self.note("infer")
        if "infer" in self.refuse:
            raise RuntimeError("shape inference failed")
        inputs = [tensor.name for tensor in self.engine.spec.inputs]
        unset = [name for name in inputs if name not in (self.addresses if name in self.host else self.shapes)]
        self.inferred = not unset
        return unset

    def get_tensor_shape(self, name):
        misuse_unless(self.inferred, "shapes were not inferred")
        return self._output_shapes()[name]

    def update_device_memory_size_for_shapes(self):
        self.note("size")
        misuse_unless(self.inferred, "shapes come first")
        self.memory, self.laid_out = None, self._output_shapes()
        return -1 if "size" in self.refuse else self._needed()

    def set_device_memory(self, pointer, nbytes):
        self.note("memory")
        misuse_unless(self.laid_out is not None, "the work space is laid out first")
        misuse_unless(nbytes >= self._needed(), f"{nbytes} bytes of work space, {self._needed()} are needed")
        misuse_unless(pointer % ALIGNMENT == 0, "the work space is not aligned")
        if "memory" in self.refuse:
            self.messages.append("out of range")
            return
        self.memory, self.memory_bytes = pointer, nbytes

    def execute_async_v3(self, stream):
        self.note("run")
        lane = self.device.lane_of(stream)
        misuse_unless(self.lane in {None, lane}, "a context runs on two streams")
        self.lane = lane
        misuse_unless(self.laid_out is not None and self.laid_out == self._output_shapes(), "the work space is laid out for other shapes")
        if "run" in self.refuse:
            return False
        spec = self.engine.spec
        shapes = {**self.shapes, **self.laid_out}
        places = {tensor.name: self._place(tensor, shapes) for tensor in (*spec.inputs, *spec.outputs) if tensor.name not in self.host}
        work_space = self._work_space()
        self._check_apart([places[tensor.name] for tensor in spec.outputs], [*places.values(), *work_space])
        values = {name: np.array([value], spec.tensor(name).dtype) for name, value in self._host_values().items()}
        changes = self.changes

        def check():
            misuse_unless(self.changes == changes, f"{spec.name} was recorded, then its context was changed")

        if self.device.captures(lane):
            misuse_unless(self.ran == changes, f"{spec.name} is recorded and did not run like that before")
        self.ran = changes
        self.device.ask(Work(lambda: self._compute(places, shapes, values, work_space), check=check), lane)
        return True

    def _compute(self, places, shapes, values, work_space):
        """Do what was asked for: with the addresses, shapes and host values of that time, and with what lies in memory now."""
        spec = self.engine.spec
        inputs = {t.name: places[t.name].bytes().copy().view(t.dtype).reshape(shapes[t.name]) for t in spec.inputs if t.name in places}
        for tensor in spec.outputs:
            places[tensor.name].bytes()[:] = DIRTY
        for place in work_space:
            place.bytes()[:] = DIRTY
        results = self.engine.compute({**inputs, **values})
        for tensor in spec.outputs:
            result = np.broadcast_to(np.asarray(results[tensor.name]), shapes[tensor.name])
            places[tensor.name].bytes()[:] = np.ascontiguousarray(result, tensor.dtype).reshape(-1).view(np.uint8)

    def _place(self, tensor, shapes):
        misuse_unless(tensor.name in self.addresses, f"{tensor.name} has no address")
        return self.device.place(self.addresses[tensor.name], math.prod(shapes[tensor.name]) * DTYPE_BYTES[tensor.dtype])

    def _work_space(self):
        if not self._needed():
            return []
        misuse_unless(self.memory is not None, "there is no work space")
        return [self.device.place(self.memory, self._needed())]

    @staticmethod
    def _check_apart(outputs, everything):
        for output in outputs:
            for other in everything:
                apart = output.start + output.nbytes <= other.start or other.start + other.nbytes <= output.start
                misuse_unless(other is output or other.owner is not output.owner or apart, "an output overlaps with something else")

    def _needed(self):
        return self.engine.bytes_per_object * self._sizes().get("B", 1)

    def _output_shapes(self):
        return {tensor.name: tensor.concrete(self._sizes()) for tensor in self.engine.spec.outputs}

    def _sizes(self):
        """Return the number of every named size."""
        sizes = {}
        for tensor in self.engine.spec.inputs:
            if tensor.name not in self.host:
                misuse_unless(tensor.name in self.shapes, f"{tensor.name} has no shape")
                sizes.update({dim: size for dim, size in zip(tensor.shape, self.shapes[tensor.name], strict=True) if isinstance(dim, str)})
        names = {"video_height": "H", "video_width": "W"}
        return sizes | {names[name]: value for name, value in self._host_values().items()}

    def _host_values(self):
        misuse_unless(self.host <= self.addresses.keys(), "an input that is read on the host has no address")
        return {name: ctypes.c_int64.from_address(self.addresses[name]).value for name in self.host}


class FakeTensorRT:
    """A runtime whose serialised engines are the names of graphs."""

    version = "1.2.3"
    restored: bytes = b""
    compiled: bytes | None = None
    """Kernels that were compiled here, once a context was made."""
    recorded: list
    """Contexts that were made for recordings; `contexts` has the first one of each graph."""

    def __init__(self, device, engines):
        self.device, self.engines, self.messages, self.log, self.contexts, self.recorded = device, engines, [], [], {}, []
        self.closed = 0

    def load_engine(self, plan, graph):
        misuse_unless(plan == f"plan of {graph}".encode(), "not the plan of this graph")
        return self.engines[graph]

    def create_context(self, engine, graph, *, recorded=False):
        context = FakeContext(engine, self.device, self.log, self.messages)
        context.recorded = recorded
        self.contexts.setdefault(graph, context)
        self.recorded += [context] * recorded
        return context

    def host_inputs(self, engine):
        return frozenset(engine.profile.values)

    def restore_kernels(self, content):
        misuse_unless(not self.contexts, "a context was made before")
        self.restored = content

    def kernels(self):
        return self.compiled

    def close(self):
        self.closed += 1
