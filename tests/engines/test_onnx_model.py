import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from trt_track.engines.onnx_model import OnnxModel
from trt_track.errors import EngineRunError, ModelError, TensorMismatchError
from trt_track.specs import GraphSpec, TensorSpec


def write(path, nodes, inputs, outputs, *, constants=(), metadata=None):
    graph = helper.make_graph(
        nodes,
        "any",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info(*one) for one in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, metadata or {})
    save(model, str(path))
    return path


@pytest.fixture
def double(tmp_path):
    """twice = left + left [N, 2] float32, joined = left + right."""
    nodes = [helper.make_node("Add", ["left", "left"], ["twice"]), helper.make_node("Add", ["left", "right"], ["joined"])]
    inputs = [("left", TensorProto.FLOAT, ["N", 2]), ("right", TensorProto.FLOAT, [None, 2])]
    outputs = [("twice", TensorProto.FLOAT, ["N", 2]), ("joined", TensorProto.FLOAT, ["N", 2])]
    path = write(tmp_path / "double.onnx", nodes, inputs, outputs, metadata={"names": "{0: 'a'}", "stride": "32"})
    model = OnnxModel(path, threads=1)
    yield model
    model.close()


def arrays(rows=2, dtype=np.float32):
    left = np.arange(rows * 2, dtype=dtype).reshape(rows, 2)
    return {"left": left, "right": left + 10}


def test_tensors_and_metadata_are_read_from_the_file(double, tmp_path):
    assert double.spec == GraphSpec(
        str(tmp_path / "double.onnx"),
        (TensorSpec("left", ("N", 2), "float32"), TensorSpec("right", ("right.0", 2), "float32")),
        (TensorSpec("twice", ("N", 2), "float32"), TensorSpec("joined", ("N", 2), "float32")),
    )
    assert double.metadata == {"names": "{0: 'a'}", "stride": "32"}


@pytest.mark.parametrize("rows", [1, 3, 2])
def test_outputs_come_by_name(double, rows):
    inputs = arrays(rows)
    out = double.run({"right": inputs["right"], "left": inputs["left"]})
    assert out.keys() == {"twice", "joined"}
    assert np.array_equal(out["twice"], 2 * inputs["left"])
    assert np.array_equal(out["joined"], inputs["left"] + inputs["right"])


def test_an_output_stays_what_it_is_when_the_model_runs_again(double):
    first = double.run(arrays())["twice"]
    before = first.copy()
    double.run({name: array + 100 for name, array in arrays().items()})
    assert np.array_equal(first, before)


@pytest.mark.parametrize(
    ("element", "dtype"),
    [
        (TensorProto.FLOAT16, "float16"),
        (TensorProto.DOUBLE, "float64"),
        (TensorProto.UINT8, "uint8"),
        (TensorProto.INT64, "int64"),
        (TensorProto.BOOL, "bool"),
    ],
)
def test_dtypes_have_numpys_names(tmp_path, element, dtype):
    path = write(tmp_path / "m.onnx", [helper.make_node("Identity", ["x"], ["y"])], [("x", element, [2])], [("y", element, [2])])
    model = OnnxModel(path, threads=1)
    assert model.spec.inputs == (TensorSpec("x", (2,), dtype),)
    assert model.run({"x": np.ones(2, dtype)})["y"].dtype == dtype


def test_sizes_that_are_no_sizes_are_open(tmp_path):
    path = write(
        tmp_path / "m.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, [-1, "", 3])],
        [("y", TensorProto.FLOAT, [-1, None, 3])],
    )
    assert OnnxModel(path, threads=1).spec.inputs[0].shape == ("x.0", "x.1", 3)


def test_a_number_that_is_also_a_weight_is_no_input(tmp_path):
    """Exporters before IR version 4 list weights among the inputs."""
    nodes = [helper.make_node("Add", ["x", "weight"], ["y"])]
    inputs = [("x", TensorProto.FLOAT, [2]), ("weight", TensorProto.FLOAT, [2])]
    path = write(tmp_path / "m.onnx", nodes, inputs, [("y", TensorProto.FLOAT, [2])], constants=[("weight", np.array([5, 6], np.float32))])
    model = OnnxModel(path, threads=1)
    assert [one.name for one in model.spec.inputs] == ["x"]
    assert model.run({"x": np.zeros(2, np.float32)})["y"].tolist() == [5, 6]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"left": np.zeros((2, 3), np.float32)}, r"'left': expected float32\[N, 2\]"),
        ({"left": np.zeros((2, 2), np.float64)}, "'left'.*got float64"),
        ({"extra": np.zeros(1)}, "takes left, right; got left, right, extra"),
    ],
)
def test_other_tensors_are_refused(double, change, message):
    with pytest.raises(TensorMismatchError, match=message):
        double.run({**arrays(), **change})


def test_a_missing_tensor_is_refused(double):
    with pytest.raises(TensorMismatchError, match="takes left, right; got nothing"):
        double.run({})


def test_a_failure_while_it_runs_names_the_file(double):
    """3 rows and 2 rows cannot be added; the second input's size is not bound to the first's."""
    with pytest.raises(EngineRunError, match=r"double\.onnx failed in ONNX Runtime"):
        double.run({"left": arrays(3)["left"], "right": arrays(2)["right"]})


def test_a_closed_model_says_so(double):
    double.close()
    with pytest.raises(EngineRunError, match=r"double\.onnx is closed"):
        double.run(arrays())
    double.close()


def test_no_such_file(tmp_path):
    with pytest.raises(ModelError, match=r"none\.onnx: no such file"):
        OnnxModel(tmp_path / "none.onnx")


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", b"\x80\x00" * 500])
def test_what_is_no_onnx_file(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"m\.onnx'.*export it again") as caught:
        OnnxModel(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_was_cut_off(tmp_path):
    nodes = [helper.make_node("Add", ["x", "weight"], ["y"])]
    sides = [("x", TensorProto.FLOAT, [999])], [("y", TensorProto.FLOAT, [999])]
    path = write(tmp_path / "m.onnx", nodes, *sides, constants=[("weight", np.ones(999, np.float32))])
    OnnxModel(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ModelError, match="export it again"):
        OnnxModel(path)


def test_an_operator_that_onnx_runtime_does_not_know(tmp_path):
    node = helper.make_node("EfficientNMS_TRT", ["x"], ["y"])
    path = write(tmp_path / "m.onnx", [node], [("x", TensorProto.FLOAT, [2])], [("y", TensorProto.FLOAT, [2])])
    with pytest.raises(ModelError, match="EfficientNMS_TRT"):
        OnnxModel(path)
