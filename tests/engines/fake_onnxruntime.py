"""ONNX Runtime's CUDA provider on the fake GPU: what is bound lies in its memory, runs are queued on a stream, the CPU computes."""

import math

import numpy as np
import onnxruntime as ort
from fake_gpu import FIRST_ADDRESS, Work, misuse_unless


class FakeBinding:
    def __init__(self):
        self.inputs, self.outputs, self.host = {}, {}, {}

    def bind_input(self, name, kind, number, element, shape, pointer):
        misuse_unless((kind, number) == ("cuda", 0), "an input that is not on the GPU")
        self.host.pop(name, None)
        self.inputs[name] = (element, tuple(shape), pointer)

    def bind_cpu_input(self, name, array):
        self.inputs.pop(name, None)
        self.host[name] = array

    def bind_output(self, name, kind, number, element, shape, pointer):
        misuse_unless((kind, number) == ("cuda", 0), "an output that is not on the GPU")
        self.outputs[name] = (element, tuple(shape), pointer)


class FakeCudaGraph:
    """An `InferenceSession` that was loaded for a stream."""

    def __init__(self, device, path, stream):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        self.engine = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.device, self.lane = device, device.lane_of(stream)
        self.runs = 0

    def get_inputs(self):
        return self.engine.get_inputs()

    def io_binding(self):
        return FakeBinding()

    def run_with_iobinding(self, binding, options):
        misuse_unless(options.get_run_config_entry("disable_synchronize_execution_providers") == "1", "the host waits in every run")
        self.runs += 1
        inputs = {
            name: (element, shape, self._place(element, shape, pointer)) for name, (element, shape, pointer) in binding.inputs.items()
        }
        outputs = [(name, self._place(*bound)) for name, bound in binding.outputs.items()]
        host = {name: array.copy() for name, array in binding.host.items()}

        def compute():
            given = {name: place.bytes().copy().view(element).reshape(shape) for name, (element, shape, place) in inputs.items()}
            found = self.engine.run([name for name, _ in outputs], given | host)
            for (_, place), result in zip(outputs, found, strict=True):
                place.bytes()[:] = np.ascontiguousarray(result).reshape(-1).view(np.uint8)

        self.device.ask(Work(compute), self.lane)

    def _place(self, element, shape, pointer):
        misuse_unless(pointer >= FIRST_ADDRESS, "an address of the host")
        return self.device.place(pointer, math.prod(shape) * np.dtype(element).itemsize)
