from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest
import tiny_graphs as tiny
from onnx import parser

from trt_track.engines.onnxruntime_session import MAX_CPU_BATCH, OnnxRuntimeSession, cpu_batch, run_bound, session_options
from trt_track.errors import DeviceMemoryError, EngineRunError, TensorMismatchError
from trt_track.specs import ModelSpec, graph_specs


@pytest.fixture
def session(tmp_path):
    graphs = {}
    for spec in (tiny.SUM, tiny.UPSCALE):
        path = tmp_path / f"{spec.name}.onnx"
        tiny.write_onnx(path, spec)
        graphs[spec.name] = (spec, path)
    with OnnxRuntimeSession(graphs, threads=1) as opened:
        yield opened


def sum_inputs(objects=2):
    bank = np.arange(3 * 8 * 4 * 4, dtype=np.float16).reshape(3, 8, 4, 4) / 64
    page = np.array([[0, 1], [2, 2]], np.int32)[:objects]
    return {"bank": bank, "page": page, "negate": np.array([False, True])[:objects]}


def test_outputs_are_written_into_the_arrays_given(session):
    inputs = sum_inputs()
    total = session.empty((2, 8, 4, 4), "float16")
    address = total.ctypes.data
    session.run("memory_sum", inputs, {"total": total})
    assert np.array_equal(total[0], inputs["bank"][0] + inputs["bank"][1])
    assert np.array_equal(total[1], -2 * inputs["bank"][2])
    assert session.download(total).ctypes.data == address


def test_a_row_of_a_bank_can_be_the_output(session):
    bank = session.empty((4, 8, 4, 4), "float16")
    session.run("memory_sum", sum_inputs(1), {"total": bank[2:3]})
    assert bank[2].any()
    assert not bank[[0, 1, 3]].any()


def test_sizes_may_change_from_call_to_call(session):
    for objects in (2, 1, 2):
        total = session.empty((objects, 8, 4, 4), "float16")
        session.run("memory_sum", sum_inputs(objects), {"total": total})
        assert total.any()


def test_sizes_from_a_tensor(session):
    mask = session.empty((1, 5, 7), "uint8")
    inputs = {"mask_logits": np.ones((1, 1, 8, 8), np.float32), "video_height": np.array([5]), "video_width": np.array([7])}
    session.run("upscale", inputs, {"mask": mask})
    assert mask.all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"page": np.zeros((2, 2), np.int64)}, "'page'.*int64"),
        ({"page": np.zeros((3, 2), np.int32)}, "'negate'"),
        ({"bank": np.zeros((3, 8, 4, 5), np.float16)}, "'bank'"),
        ({"bank": np.zeros((3, 8, 4, 8), np.float16)[..., ::2]}, "contiguous"),
        ({"page": None}, "needs tensor 'page'"),
    ],
)
def test_what_does_not_fit_the_contract_is_refused_by_name(session, change, message):
    inputs = {name: value for name, value in {**sum_inputs(), **change}.items() if value is not None}
    with pytest.raises(TensorMismatchError, match=message):
        session.run("memory_sum", inputs, {"total": session.empty((2, 8, 4, 4), "float16")})


def test_an_output_of_the_wrong_size_is_refused(session):
    with pytest.raises(TensorMismatchError, match="'total'"):
        session.run("memory_sum", sum_inputs(), {"total": session.empty((1, 8, 4, 4), "float16")})


def test_a_failure_inside_the_graph_names_it(session):
    inputs = sum_inputs() | {"page": np.array([[0, 7], [1, 1]], np.int32)}
    with pytest.raises(EngineRunError, match="'memory_sum' failed"):
        session.run("memory_sum", inputs, {"total": session.empty((2, 8, 4, 4), "float16")})


def huge_array():
    """A graph that asks for 32 TiB, bound."""
    model = parser.parse_model('<ir_version: 10, opset_import: ["" : 20]> huge (int64[N] n) => (float[M] y) { y = ConstantOfShape(n) }')
    engine = ort.InferenceSession(model.SerializeToString(), session_options(threads=1), providers=["CPUExecutionProvider"])
    binding = engine.io_binding()
    binding.bind_cpu_input("n", np.array([1 << 43]))
    binding.bind_output("y")
    return engine, binding


def test_a_shortage_of_memory_is_told_from_other_failures():
    engine, binding = huge_array()
    with pytest.raises(DeviceMemoryError, match=r"graph 'huge' failed in ONNX Runtime: .*Failed to allocate memory"):
        run_bound("huge", engine, binding)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), DeviceMemoryError),
        (RuntimeError("... bfc_arena.cc:376 Available memory of 77 is smaller than requested bytes of 99"), DeviceMemoryError),
        (RuntimeError("Non-zero status\nCUDA failure 2: out of memory ; GPU=0 ; hostname=here"), DeviceMemoryError),
        (RuntimeError("CUDNN failure 4002: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), DeviceMemoryError),
        (RuntimeError("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED"), DeviceMemoryError),
        (RuntimeError("CudaMempoolArena::Alloc: cudaMallocFromPoolAsync failed: 2"), DeviceMemoryError),
        (RuntimeError("CUDA failure 700: an illegal memory access was encountered"), EngineRunError),
        (RuntimeError("CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED"), EngineRunError),
    ],
)
def test_what_the_libraries_say_of_memory(error, kind):
    def fail(*_):
        raise error

    with pytest.raises(EngineRunError, match="graph 'any' failed in ONNX Runtime") as raised:
        run_bound("any", SimpleNamespace(run_with_iobinding=fail), None)
    assert type(raised.value) is kind


def test_a_file_that_is_no_graph_is_refused(tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(EngineRunError, match="cannot load graph 'memory_sum'"):
        OnnxRuntimeSession({"memory_sum": (tiny.SUM, path)})


def test_copies_keep_the_dtype(session):
    target = session.empty((2,), "float32")
    session.upload(target, np.array([1, 2], np.float32))
    assert target.tolist() == [1, 2]
    with pytest.raises(TypeError):
        session.copy(target, np.zeros(2, np.float64))


@pytest.mark.parametrize(("size", "objects"), [(128, 4), (256, 4), (512, 2), (1024, 1)])
def test_a_call_carries_fewer_objects_where_each_takes_more(size, objects):
    assert cpu_batch(graph_specs(ModelSpec("some", size), "float32")) == objects


def test_graphs_without_memories_carry_the_most(session):
    assert session.max_batch == cpu_batch({}) == MAX_CPU_BATCH
