import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_graphs as tiny

from trt_track.engines.cuda_door import find_gpu
from trt_track.engines.engine_record import EngineFolder, find_engines, sm_name
from trt_track.engines.profiles import Profile, graph_profile, size_ranges
from trt_track.engines.tensorrt_builder import build_engines
from trt_track.engines.tensorrt_door import GraphCompiler, import_tensorrt
from trt_track.errors import BackendError, BundleError, EngineBuildError, EngineMismatchError
from trt_track.specs import GraphSpec, Limits, ModelSpec, TensorSpec, graph_specs

LIMITS = Limits(objects=4, memories=8, clicks=4, video_wh=(320, 240))


def test_profiles_follow_the_limits():
    limits = Limits()
    sizes = size_ranges(ModelSpec("sam2.1-hiera-tiny", 1024), limits)
    assert sizes["B"] == (1, 1, limits.objects)
    assert sizes["N"] == (1, 7, limits.memories)
    assert sizes["P"] == (1, 16, limits.pointers_attended)
    assert sizes["pages"] == (1, limits.pages, limits.pages)
    assert sizes["pointers"] == (1, limits.pointers, limits.pointers)


@pytest.mark.parametrize("limits", [Limits(), Limits(objects=1, memories=1, clicks=1, video_wh=(64, 48))])
def test_every_real_graph_has_a_profile_in_order(limits):
    model = ModelSpec("sam2.1-hiera-tiny", 1024)
    for spec in graph_specs(model, "float16").values():
        profile = graph_profile(spec, model, limits)
        assert profile.shapes.keys() == {tensor.name for tensor in spec.inputs}
        for fewest, usual, most in profile.shapes.values():
            assert all(1 <= low <= middle <= high for low, middle, high in zip(fewest, usual, most, strict=True))
        assert all(low <= middle <= high for low, middle, high in profile.values.values())
        assert Profile.from_json(json.loads(json.dumps(profile.to_json()))) == profile


def test_upright_videos_fit_too():
    profile = graph_profile(tiny.UPSCALE, tiny.MODEL, Limits(video_wh=(1920, 1080)))
    assert profile.values == {"video_height": (1, 1080, 1920), "video_width": (1, 1080, 1920)}


def test_a_size_without_a_range_is_named():
    spec = GraphSpec("odd", (TensorSpec("x", ("B", "Z"), "float32"),), ())
    with pytest.raises(EngineBuildError, match="'odd': input 'x' has sizes without a range: Z"):
        graph_profile(spec, tiny.MODEL, LIMITS)


@pytest.mark.parametrize(("sm", "name"), [(89, "SM 8.9 (RTX 40)"), (120, "SM 12.0 (RTX 50)"), (61, "SM 6.1")])
def test_compute_capabilities_are_named(sm, name):
    assert sm_name(sm) == name


@pytest.fixture(scope="module")
def rtx():
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install 'trt-track[rtx]'")
    return GraphCompiler("tensorrt-rtx")


@pytest.fixture
def bundle(tmp_path):
    return tiny.write_bundle(tmp_path / "tiny", tiny.SUM, tiny.UPSCALE, tiny.FRAME)


def build(bundle, *targets, **settings):
    return build_engines(bundle, targets=targets or ("sm89",), **{"limits": LIMITS, **settings})


def test_engines_are_built_ahead_of_time_and_recorded(rtx, bundle):
    seen = []
    records = build(bundle, "sm75", "sm89", on_progress=lambda done, total: seen.append((done, total)))
    assert [record.graph for record in records] == ["memory_sum", "upscale", "frame"] * 2
    assert seen == [(done, 6) for done in range(1, 7)]
    folder = bundle.folder / "engines" / f"tensorrt-rtx-{rtx.version}" / "sm89"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["engine.json", *(f"{name}.{end}" for name in bundle.specs for end in ("engine", "log"))]
    )
    found = find_engines(bundle, flavour="tensorrt-rtx", version=rtx.version, sm=89)
    assert list(found.records.values()) == records[3:]
    assert found.read_plan(bundle, "upscale") == (folder / "upscale.engine").read_bytes()
    assert found.records["upscale"].profile.values["video_width"] == (1, 320, 320)
    assert "int64" in (folder / "upscale.log").read_text().lower()


def test_unchanged_engines_are_not_built_again(rtx, bundle):
    first = build(bundle)
    path = bundle.folder / "engines" / f"tensorrt-rtx-{rtx.version}" / "sm89" / "upscale.engine"
    stamp = path.stat().st_mtime_ns
    assert build(bundle) == first
    assert path.stat().st_mtime_ns == stamp


def test_other_limits_build_only_what_they_change(rtx, bundle):
    first = {record.graph: record for record in build(bundle)}
    second = {record.graph: record for record in build(bundle, limits=replace(LIMITS, objects=2))}
    assert second["memory_sum"].profile.shapes["page"][2] == (2, 8)
    assert second["memory_sum"].limits.objects == 2
    assert first["memory_sum"].profile.shapes["page"][2] == (4, 8)


def test_a_changed_graph_is_built_again(rtx, bundle, tmp_path, monkeypatch):
    build(bundle)
    engines = bundle.folder / "engines"
    engines.rename(tmp_path / "kept")
    nodes, constants = tiny.upscale_nodes()
    monkeypatch.setitem(tiny.NODES, "upscale", lambda: (nodes, [*constants[:-1], tiny.constant("threshold", np.float32(0.5))]))
    again = tiny.write_bundle(bundle.folder, tiny.SUM, tiny.UPSCALE, tiny.FRAME, overwrite=True)
    (tmp_path / "kept").rename(engines)
    with pytest.raises(EngineMismatchError, match="'upscale' was built from another ONNX file"):
        EngineFolder.at(again, "tensorrt-rtx", rtx.version, "sm89").read_plan(again, "upscale")
    build(again)
    assert EngineFolder.at(again, "tensorrt-rtx", rtx.version, "sm89").read_plan(again, "upscale")


def test_a_changed_engine_is_refused_and_built_again(rtx, bundle):
    build(bundle)
    folder = EngineFolder.at(bundle, "tensorrt-rtx", rtx.version, "sm89")
    path = folder.folder / "frame.engine"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    with pytest.raises(EngineMismatchError, match=r"frame\.engine was changed .*: run trt-track build"):
        folder.read_plan(bundle, "frame")
    build(bundle)
    assert EngineFolder.at(bundle, "tensorrt-rtx", rtx.version, "sm89").read_plan(bundle, "frame") != bytes(data)


def test_engines_for_another_gpu_or_version_are_refused(rtx, bundle):
    ask = {"flavour": "tensorrt-rtx", "version": rtx.version}
    with pytest.raises(EngineMismatchError, match=r"has no engines yet: run trt-track build .* --target local"):
        find_engines(bundle, **ask, sm=86)
    build(bundle)
    with pytest.raises(EngineMismatchError) as caught:
        find_engines(bundle, **ask, sm=86)
    told = f"engine was built for SM 8.9 (RTX 40), this GPU is SM 8.6 (RTX 30): run trt-track build {bundle.folder} --target local"
    assert str(caught.value) == told
    with pytest.raises(EngineMismatchError, match=rf"built with tensorrt-rtx-{rtx.version}, this machine has tensorrt-rtx-9\.9"):
        find_engines(bundle, flavour="tensorrt-rtx", version="9.9", sm=89)
    with pytest.raises(EngineMismatchError, match="this machine has tensorrt-1"):
        find_engines(bundle, flavour="tensorrt", version="1", sm=89)


def test_one_engine_for_all_gpus_runs_on_each(rtx, bundle):
    build(bundle, "all")
    for sm in (75, 120):
        assert find_engines(bundle, flavour="tensorrt-rtx", version=rtx.version, sm=sm).target == "all"


def test_a_refused_graph_names_the_node(rtx, tmp_path):
    bundle = tiny.write_bundle(tmp_path / "b", tiny.REFUSED)
    with pytest.raises(EngineBuildError, match=r"graph 'refused': TensorRT cannot read it: node 'find_points' \(NonZero\): .*") as caught:
        build(bundle)
    assert "\n" not in str(caught.value)
    folder = EngineFolder.at(bundle, "tensorrt-rtx", rtx.version, "sm89")
    assert not folder.records
    assert "find_points" in (folder.folder / "refused.log").read_text()


def test_attention_that_has_no_fused_kernel_is_refused(rtx, tmp_path):
    bundle = tiny.write_bundle(tmp_path / "b", tiny.ATTENTION)
    with pytest.raises(EngineBuildError, match=r"graph 'attention': TensorRT cannot compile it for sm89: .*") as caught:
        build(bundle)
    assert "ttention" in str(caught.value).split("sm89:")[1]
    assert "\n" not in str(caught.value)


def present_gpu():
    try:
        return find_gpu()
    except BackendError:
        return None


@pytest.mark.skipif(present_gpu() is not None, reason="there is a GPU")
def test_local_needs_a_gpu(rtx, bundle):
    with pytest.raises(BackendError, match="no NVIDIA"):
        build(bundle, "local")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (replace(tiny.FRAME, inputs=(TensorSpec("frames", ("F", 5, 4, 3), "uint8"),)), r"'frames' should be uint8\[F, 5, 4, 3\], is uint8"),
        (replace(tiny.FRAME, outputs=(TensorSpec("image", ("F", 3, 4, 4), "float16"),)), "'image' should be float16"),
        (replace(tiny.FRAME, outputs=()), "does not name: image"),
        (replace(tiny.FRAME, inputs=(*tiny.FRAME.inputs, TensorSpec("more", ("F",), "uint8"))), "lacks tensor 'more'"),
    ],
    ids=["size", "dtype", "extra", "missing"],
)
def test_a_graph_must_meet_its_contract(rtx, tmp_path, spec, message):
    from trt_track.engines.bundle import Bundle

    with Bundle.create(tmp_path / "b", tiny.DESCRIPTION) as draft:
        tiny.write_onnx(draft.onnx_path("frame"), tiny.FRAME)
        draft.add(spec)
    with pytest.raises(EngineBuildError, match=message):
        build(Bundle.open(tmp_path / "b"))


def test_fp32_is_compiled_without_tf32(rtx, bundle, monkeypatch):
    cleared = []
    clear_flag = rtx.trt.IBuilderConfig.clear_flag
    monkeypatch.setattr(rtx.trt.IBuilderConfig, "clear_flag", lambda config, flag: (cleared.append(flag), clear_flag(config, flag)))
    build(bundle)
    assert cleared == [rtx.trt.BuilderFlag.TF32] * 3


def test_targets_are_checked(rtx, bundle):
    with pytest.raises(EngineBuildError, match=r"has no target 'sm61': choose one of sm75, .*local"):
        build(bundle, "sm61")
    assert rtx.targets[:4] == ("sm75", "sm80", "sm86", "sm89")


def test_a_changed_onnx_file_is_never_compiled(rtx, bundle):
    path = bundle.folder / "onnx" / "frame.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match=r"frame\.onnx was changed"):
        build(type(bundle).open(bundle.folder))


def test_a_damaged_engine_record_says_what_to_do(rtx, bundle):
    build(bundle)
    path = bundle.folder / "engines" / f"tensorrt-rtx-{rtx.version}" / "sm89" / "engine.json"
    for text, message in (("{", "cannot be read"), ("{}", "is malformed"), (path.read_text().replace("sm89", "sm86"), "speaks of")):
        path.write_text(text)
        with pytest.raises((BundleError, EngineMismatchError), match=rf"{message}.*: delete .* and run trt-track build again"):
            EngineFolder.at(bundle, "tensorrt-rtx", rtx.version, "sm89")


def test_a_missing_flavour_is_named():
    with pytest.raises(BackendError, match="flavour 'openvino' is unknown"):
        import_tensorrt("openvino")
