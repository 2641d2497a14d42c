"""Recipes through the command line: exported, described, tracked with on a CPU, built, and refused where they make no sense."""

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from PIL import Image

from trt_track.cli.calibration_data import PHOTOGRAPHS, CalibrationData
from trt_track.engines.bundle import Bundle
from trt_track.errors import ModelError, VideoError
from trt_track.export.layer_names import layer_of

OWN = """
name = "mine"
[networks]
image_encoder = { dtype = "float32", quantize = ["MatMul"] }
memory_attention = { dtype = "float32", quantize = ["MatMul"] }
[[exceptions]]
network = "image_encoder"
layers = ["trunk.stages.0.*"]
dtype = "float32"
reason = "a test"
"""
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}
DTYPES = {
    "fp16": ("float16", "float16"),
    "bf16": ("bfloat16", "bfloat16"),
    "int8": ("int8", "float16"),
    "mine": ("int8", "int8"),
}


@pytest.fixture(scope="module", params=DTYPES)
def exported(request, tmp_path_factory, cli, small_config, bikes):
    """A bundle of each recipe, and its name."""
    folder = tmp_path_factory.mktemp("recipes")
    precision, options = request.param, ()
    if request.param == "mine":
        precision = folder / "own.toml"
        precision.write_text(OWN)
        options = ("--calibrate", bikes, "--calibration-frames", 4, "--calibration", "minmax")
    out = folder / "bundle"
    done = cli("export", "small", "--config", small_config, "--random-weights", 0, "--precision", precision, "--out", out, *options)
    assert done.code == 0, done.err
    return request.param, Bundle.open(out)


def test_the_manifest_tells_each_modules_dtype_and_the_recipe(exported):
    name, bundle = exported
    about = bundle.manifest.description
    assert about.precision == about.recipe["name"] == name
    assert (about.dtypes["image_encoder"], about.dtypes["memory_attention"]) == DTYPES[name]
    assert {about.dtypes[graph] for graph in ("mask_decoder", "memory_encoder", "mask_prompt", "mask_upscale")} == {"float32"}
    assert bool(about.calibration) == (name in {"int8", "mine"})
    features = {"fp16": "float16", "bf16": "float32", "int8": "float16", "mine": "float32"}[name]
    memory = {"fp16": "float16", "bf16": "bfloat16", "int8": "float16", "mine": "float32"}[name]
    specs = bundle.specs
    assert specs["image_encoder"].tensor("embed").dtype == specs["memory_attention"].tensor("conditioned").dtype == features
    assert specs["memory_encoder"].tensor("memory").dtype == specs["memory_attention"].tensor("bank").dtype == memory


def test_the_graphs_compute_as_the_manifest_says(exported):
    name, bundle = exported
    for graph in ("image_encoder", "memory_attention", "mask_decoder", "memory_encoder"):
        model = onnx.load(bundle.onnx_path(graph))
        quantised = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
        assert quantised == (bundle.manifest.description.dtypes[graph] == "int8"), graph
        fused = any(node.op_type == "Attention" for node in model.graph.node)
        assert fused == (graph in {"image_encoder", "memory_attention"} and name != "mine"), graph


def test_what_layers_add_to_is_in_the_dtype_of_the_stream_and_products_are_not(exported):
    name, bundle = exported
    low = {"fp16": TensorProto.FLOAT16, "int8": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16, "mine": TensorProto.FLOAT}[name]
    stream = TensorProto.FLOAT if name == "bf16" else low
    model = onnx.shape_inference.infer_shapes(onnx.load(bundle.onnx_path("memory_attention")))
    dtypes = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    dtypes |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    given = {}
    for node in model.graph.node:
        given.setdefault(node.op_type, set()).update(dtypes[name] for name in node.input if dtypes.get(name) in FLOATS)
    assert given["LayerNormalization"] == {stream}
    assert given["Attention" if name != "mine" else "Softmax"] == {low}
    residual = [node for node in model.graph.node if node.op_type == "Add" and layer_of(node) in {"layers.0", "layers.1"}]
    assert residual
    assert {dtypes[node.output[0]] for node in residual} == {stream}


def test_it_tracks_on_a_cpu(exported, cli, bikes, tmp_path):
    _, bundle = exported
    done = cli(
        "run",
        bikes,
        "--bundle",
        bundle.folder,
        "--box",
        "1:100,60,300,200",
        "--max-frames",
        4,
        "--save",
        "jsonl",
        "--out",
        tmp_path / "run",
    )
    assert done.code == 0, done.err
    assert len((tmp_path / "run" / "tracks.jsonl").read_text().splitlines()) == 4


def test_it_builds(exported, cli, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install 'trt-track[rtx]'")
    name, bundle = exported
    copy = shutil.copytree(bundle.folder, tmp_path / "bundle")
    if name == "bf16":
        error = cli("build", copy, "--target", "sm89,sm75").error
        assert error.startswith("SM 7.5 (RTX 20, T4) has no bfloat16, in which image_encoder computes: export with --precision fp16")
    if name != "mine":  # it is for a CPU
        assert cli("build", copy, "--target", "sm86" if name == "bf16" else "sm75", "--frames", 3).code == 0
        assert len(list(copy.rglob("*.engine"))) == 6
        (record,) = (json.loads(path.read_text()) for path in copy.rglob("engine.json"))
        assert [shape[0] for shape in record["engines"]["image_encoder"]["profile"]["shapes"]["frames"]] == [1, 3, 3]


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_detectors_backbone(cli, detector_folder, tmp_path, precision):
    out = tmp_path / "bundle"
    done = cli("export-detector", "small", "--weights", detector_folder, "--frame", "96x130", "--precision", precision, "--out", out)
    assert done.code == 0, done.err
    about = Bundle.open(out).manifest.description
    assert about.dtypes["backbone"] == {"bf16": "bfloat16", "int8": "int8"}[precision]
    nodes = onnx.load(Bundle.open(out).onnx_path("detector")).graph.node
    layers = {
        entry.value for node in nodes if node.op_type == "QuantizeLinear" or "dequantize" in node.name for entry in node.metadata_props
    }
    quantised = [node for node in nodes if any(name.endswith("/dequantized") for name in node.input)]
    assert bool(quantised) == (precision == "int8")
    assert all(entry.value.startswith("backbone.") for node in quantised for entry in node.metadata_props)
    assert not layers  # what was added belongs to no layer


def test_nothing_is_calibrated_in_vain(cli, small_config, bikes):
    common = ("export", "small", "--config", small_config, "--random-weights", 0, "--calibrate", bikes)
    assert (
        cli(*common, "--precision", "fp16").error
        == "--calibrate: recipe fp16 quantises nothing here; take --precision int8, or leave it out"
    )


def test_layers_that_the_model_lacks_are_refused(cli, small_config, tmp_path):
    (tmp_path / "own.toml").write_text(OWN.replace("trunk.stages.0.*", "head.*"))
    error = cli("export", "small", "--config", small_config, "--random-weights", 0, "--precision", tmp_path / "own.toml").error
    assert error.startswith("recipe mine: image_encoder of this model has no layer head.*; it has trunk.patches, trunk.stages.0.0.norm1, ")


def test_photographs_are_there_whole_and_in_quarters():
    calibration = CalibrationData(frames=100).of_frames((48, 64))
    assert len(calibration.feeds) == 5 * len(PHOTOGRAPHS)
    assert all(feed["frames"].shape == (1, 48, 64, 3) and feed["frames"].dtype == np.uint8 for feed in calibration.feeds)


def test_a_folder_of_pictures_and_clips(tmp_path, bikes):
    for number in range(3):
        Image.new("RGB", (40 + number, 30), (number, 0, 0)).save(tmp_path / f"{number}.png")
    shutil.copy(bikes, tmp_path / "9.mp4")
    feeds = CalibrationData(tmp_path, "minmax", 8).of_frames((16, 16)).feeds
    assert [int(feed["frames"][0, 0, 0, 0]) for feed in feeds[:3]] == [0, 1, 2]
    assert len(feeds) == 5  # and two frames of the clip


@pytest.mark.parametrize(("files", "pictures", "taken", "gap"), [(33, 32, 32, 2), (63, 32, 32, 2), (5, 32, 5, 1), (100, 10, 10, 10)])
def test_pictures_are_spread_over_a_whole_folder(tmp_path, files, pictures, taken, gap):
    for number in range(files):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number:03}.png")
    found = [int(feed["frames"][0, 0, 0, 0]) for feed in CalibrationData(tmp_path, "minmax", pictures).of_frames((8, 8)).feeds]
    assert len(found) == taken
    assert max(np.diff([*found, files])) <= gap


def test_pictures_that_are_none(tmp_path):
    with pytest.raises(ModelError, match="the folder is empty; expected pictures or clips"):
        CalibrationData(tmp_path).of_frames((16, 16))
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(VideoError, match=r"a.png cannot be read as a picture"):
        CalibrationData(tmp_path).of_frames((16, 16))


def test_to_quantise_what_reads_memories_a_clip_is_needed(cli, small_config, tmp_path):
    (tmp_path / "own.toml").write_text(OWN)
    error = cli("export", "small", "--config", small_config, "--random-weights", 0, "--precision", tmp_path / "own.toml").error
    assert error == "to quantise memory_attention, a clip to track through is needed: --calibrate CLIP"


def test_a_bundle_of_an_older_trt_track_is_refused(exported, tmp_path, cli):
    _, bundle = exported
    copy = shutil.copytree(bundle.folder, tmp_path / "bundle")
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "format": 1}))
    assert "was written by an older trt-track, whose graphs this one cannot use: run trt-track export again" in cli("inspect", copy).error
