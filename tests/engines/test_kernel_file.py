"""Kernels that TensorRT for RTX compiles at run time: shared by all contexts, and taken from an earlier run where they fit."""

from types import SimpleNamespace

import pytest

from trt_track.engines.kernel_file import KernelFile
from trt_track.engines.tensorrt_door import TensorRTRuntime


class Config:
    """What TensorRT for RTX opens a context with."""

    def __init__(self, made, fitting):
        self.made, self.fitting, self.cache = made, fitting, None
        self.dynamic_shapes_kernel_specialization_strategy = "LAZY"

    def set_execution_context_allocation_strategy(self, strategy):
        self.strategy = strategy

    def create_runtime_cache(self):
        self.made.append(Cache(self.fitting))
        return self.made[-1]

    def set_runtime_cache(self, cache):
        self.cache = cache
        return True


class Cache:
    def __init__(self, fitting):
        self.fitting, self.content = fitting, b"new"

    def deserialize(self, content):
        if content == self.fitting:
            self.content = content + b" and new"
        return content == self.fitting

    def serialize(self):
        return memoryview(self.content)


class Engine:
    def __init__(self, made, fitting=b""):
        self.made, self.fitting = made, fitting

    def create_runtime_config(self):
        return Config(self.made, self.fitting)

    def create_execution_context(self, how):
        return how


@pytest.fixture
def runtime(monkeypatch):
    """The real runtime over a module like TensorRT for RTX's."""
    module = SimpleNamespace(
        __version__="1",
        ILogger=type("ILogger", (), {"__init__": lambda self: None}),
        Runtime=lambda logger: logger,
        IRuntimeCache=Cache,
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user"),
        DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="EAGER"),
    )
    monkeypatch.setattr("trt_track.engines.tensorrt_door.import_tensorrt", lambda flavour: module)
    return TensorRTRuntime("tensorrt-rtx")


def test_all_contexts_share_what_an_earlier_run_kept(runtime):
    made = []
    runtime.restore_kernels(b"kept")
    contexts = [runtime.create_context(Engine(made, b"kept"), "graph", recorded=recorded) for recorded in (False, True, False)]
    (cache,) = made
    assert {context.cache for context in contexts} == {cache}
    assert {context.strategy for context in contexts} == {"user"}
    assert [context.dynamic_shapes_kernel_specialization_strategy for context in contexts] == ["LAZY", "EAGER", "LAZY"]
    assert runtime.kernels() == b"kept and new"


def test_kernels_that_do_not_fit_are_compiled_again(runtime, caplog):
    caplog.set_level("INFO")
    assert runtime.kernels() is None
    runtime.restore_kernels(b"of another driver")
    runtime.create_context(Engine([], b"kept"), "graph")
    assert runtime.kernels() == b"new"
    assert "do not fit this machine any more" in caplog.text


def test_full_tensorrt_has_none(runtime):
    del runtime.trt.IRuntimeCache
    assert runtime.create_context(Engine([]), "graph") == "user"
    assert runtime.kernels() is None


def test_a_file_that_cannot_be_read_is_none(tmp_path):
    assert KernelFile(tmp_path).read() is None
    assert KernelFile(tmp_path / "missing").read() is None
