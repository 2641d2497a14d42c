"""A GPU made of numpy arrays and a TensorRT that runs Python functions; both fit the Protocols that the session asks for."""

import ctypes

import numpy as np

from trt_track.engines.device_memory import Gpu


def view(pointer, shape, dtype):
    """Look at memory as the array that lies there."""
    count = int(np.prod(shape))
    if count == 0:
        return np.zeros(shape, dtype)
    raw = (ctypes.c_uint8 * (count * np.dtype(dtype).itemsize)).from_address(pointer)
    return np.frombuffer(raw, dtype).reshape(shape)


class FakeBlock:
    def __init__(self, device, nbytes):
        self.device, self.nbytes = device, nbytes
        self.memory = np.full(nbytes + 256, 0xAB, np.uint8)  # fresh GPU memory holds anything
        self.pointer = self.memory.ctypes.data + -self.memory.ctypes.data % 256
        device.live[self.pointer] = self

    def close(self):
        self.device.freed.append(self.device.live.pop(self.pointer))  # kept, so that no other block gets its address


class FakeDevice:
    """Does everything at once; `log` keeps what was asked for."""

    stream = 77

    def __init__(self, sm=89):
        self.gpu = Gpu("Fake RTX", sm, 8 << 30, 8 << 30)
        self.live, self.freed, self.log, self.closed = {}, [], [], 0
        self.fail_synchronize = None

    def allocate(self, nbytes):
        self.log.append(("allocate", nbytes))
        return FakeBlock(self, nbytes)

    def pinned(self, nbytes):
        return np.zeros(nbytes, np.uint8)

    def copy(self, target, source, nbytes):
        self.log.append(("copy", nbytes))
        ctypes.memmove(target, source, nbytes)

    def zero(self, target, nbytes):
        ctypes.memset(target, 0, nbytes)

    def mark(self):
        self.log.append(("mark",))
        return len(self.log)

    def wait(self, event):
        self.log.append(("wait", event))

    def synchronize(self):
        self.log.append(("synchronize",))
        if self.fail_synchronize:
            raise self.fail_synchronize

    def close(self):
        self.closed += 1


class FakeEngine:
    """An engine: a contract, the sizes that it was built for, and the function that it computes."""

    def __init__(self, spec, profile, compute, bytes_per_object):
        self.spec, self.profile, self.compute, self.bytes_per_object = spec, profile, compute, bytes_per_object

    def get_tensor_profile_shape(self, name, index):
        assert index == 0
        return list(self.profile.shapes[name])


class FakeContext:
    """An execution context that insists on the order of calls that TensorRT asks for."""

    def __init__(self, engine, log):
        self.engine, self.log = engine, log
        self.host = frozenset(engine.profile.values)
        self.shapes, self.addresses, self.memory = {}, {}, None
        self.inferred = self.sized = False
        self.refuse = set()

    def note(self, *call):
        self.log.append((self.engine.spec.name, *call))

    def update_device_memory_size_for_shapes(self):
        assert self.inferred, "shapes come first"
        self.memory, self.sized = None, True
        self.note("size")
        return -1 if "size" in self.refuse else self._needed()

    def set_device_memory(self, pointer, nbytes):
        assert self.sized, "the work space is laid out first"
        assert nbytes >= self._needed()
        assert pointer % 256 == 0
        self.memory = pointer
        self.note("memory")

    def _needed(self):
        return self.engine.bytes_per_object * self._arrays()[2]["B"]

    def set_input_shape(self, name, shape):
        assert name not in self.host
        self.note("shape", name, tuple(shape))
        self.inferred = self.sized = False
        self.shapes[name] = tuple(shape)
        return "shape" not in self.refuse

    def set_tensor_address(self, name, pointer):
        self.engine.spec.tensor(name)
        assert pointer
        self.note("address", name)
        self.addresses[name] = pointer
        return "address" not in self.refuse

    def infer_shapes(self):
        self.note("infer")
        self.inferred = True
        if "infer" in self.refuse:
            raise RuntimeError("shape inference failed")
        inputs = [tensor.name for tensor in self.engine.spec.inputs]
        return [name for name in inputs if name not in (self.addresses if name in self.host else self.shapes)]

    def get_tensor_shape(self, name):
        return self._arrays()[1][name]

    def execute_async_v3(self, stream):
        assert stream == FakeDevice.stream
        assert self.sized
        assert self.memory or not self.engine.bytes_per_object
        self.note("run")
        if "run" in self.refuse:
            return False
        inputs, shapes, _ = self._arrays()
        for name, result in self.engine.compute(inputs).items():
            target = view(self.addresses[name], shapes[name], self.engine.spec.tensor(name).dtype)
            target[...] = result
        return True

    def _arrays(self):
        """Return the inputs by name, the shapes of the outputs, and all named sizes."""
        spec, sizes, inputs = self.engine.spec, {}, {}
        for tensor in spec.inputs:
            shape = (1,) if tensor.name in self.host else self.shapes[tensor.name]
            if tensor.name in self.addresses:
                inputs[tensor.name] = view(self.addresses[tensor.name], shape, tensor.dtype)
            sizes.update({dim: size for dim, size in zip(tensor.shape, shape, strict=True) if isinstance(dim, str)})
        if self.host:
            sizes.update(H=int(inputs["video_height"][0]), W=int(inputs["video_width"][0]))
        return inputs, {tensor.name: tensor.concrete(sizes) for tensor in spec.outputs}, sizes


class FakeTensorRT:
    """A runtime whose serialised engines are the names of graphs."""

    version = "1.2.3"

    def __init__(self, engines):
        self.engines, self.messages, self.log, self.contexts = engines, [], [], {}

    def load_engine(self, plan, graph):
        assert plan == f"plan of {graph}".encode()
        return self.engines[graph]

    def create_context(self, engine, graph):
        self.contexts[graph] = FakeContext(engine, self.log)
        return self.contexts[graph]

    def host_inputs(self, engine):
        return frozenset(engine.profile.values)
