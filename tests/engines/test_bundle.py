import json
import os
from pathlib import Path

import pytest
import tiny_graphs as tiny

from trt_track.engines.bundle import Bundle
from trt_track.engines.file_record import FileRecord, write_atomically
from trt_track.engines.manifest import FORMAT, Manifest
from trt_track.errors import BundleError


@pytest.fixture
def bundle(tmp_path):
    return tiny.write_bundle(tmp_path / "tiny-64-fp16", tiny.SUM, tiny.UPSCALE)


def edit_manifest(folder, change):
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_bundle_reads_back_what_was_written(bundle):
    assert bundle.manifest.description == tiny.DESCRIPTION
    assert bundle.specs == {"memory_sum": tiny.SUM, "upscale": tiny.UPSCALE}
    assert bundle.model == tiny.MODEL
    assert Manifest.from_json(json.loads(json.dumps(bundle.manifest.to_json()))) == bundle.manifest
    bundle.verify()
    assert bundle.onnx_path("upscale") == bundle.folder / "onnx" / "upscale.onnx"
    assert oct(bundle.folder.stat().st_mode)[-3:] != "700", "others may read it"


def test_external_weights_are_sealed_too(tmp_path):
    with Bundle.create(tmp_path / "b", tiny.DESCRIPTION) as draft:
        tiny.write_onnx(draft.onnx_path("upscale"), tiny.UPSCALE)
        (draft.folder / "onnx" / "upscale.onnx.data").write_bytes(b"weights")
        draft.add(tiny.UPSCALE)
    bundle = Bundle.open(tmp_path / "b")
    assert [file.file for file in bundle.record("upscale").external] == ["onnx/upscale.onnx.data"]
    (bundle.folder / "onnx" / "upscale.onnx.data").write_bytes(b"Weights")
    with pytest.raises(BundleError, match=r"upscale\.onnx\.data was changed"):
        bundle.verify()


def test_verify_reports_bytes(bundle):
    seen = []
    bundle.verify(lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == sum(record.onnx.bytes for record in bundle.manifest.graphs.values())


def test_nothing_is_left_when_writing_fails(tmp_path):
    def fail_halfway():
        with Bundle.create(tmp_path / "deep" / "b", tiny.DESCRIPTION) as draft:
            tiny.write_onnx(draft.onnx_path("upscale"), tiny.UPSCALE)
            draft.add(tiny.UPSCALE)
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        fail_halfway()
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_failed_replacement_leaves_the_old_bundle(bundle):
    before = (bundle.folder / "manifest.json").read_bytes()
    with pytest.raises(BundleError, match="has no file"), Bundle.create(bundle.folder, tiny.DESCRIPTION, overwrite=True) as draft:
        draft.add(tiny.FRAME)
    assert (bundle.folder / "manifest.json").read_bytes() == before
    assert [path.name for path in bundle.folder.parent.iterdir()] == [bundle.folder.name]


def test_the_old_bundle_comes_back_when_the_new_one_cannot_take_its_place(bundle, monkeypatch):
    rename = Path.rename

    def refuse_the_new_one(path, target):
        if (path / "onnx" / "frame.onnx").exists():
            raise PermissionError("no")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse_the_new_one)
    with pytest.raises(BundleError, match="cannot be written: no"):
        tiny.write_bundle(bundle.folder, tiny.FRAME, overwrite=True)
    assert list(Bundle.open(bundle.folder).specs) == ["memory_sum", "upscale"]
    assert [path.name for path in bundle.folder.parent.iterdir()] == [bundle.folder.name]


def test_an_empty_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match="at least one graph"), Bundle.create(tmp_path / "b", tiny.DESCRIPTION):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_existing_bundle_is_kept_unless_told_otherwise(bundle):
    with pytest.raises(BundleError, match="--overwrite"):
        tiny.write_bundle(bundle.folder, tiny.FRAME)
    replaced = tiny.write_bundle(bundle.folder, tiny.FRAME, overwrite=True)
    assert list(replaced.specs) == ["frame"]
    assert [path.name for path in bundle.folder.parent.iterdir()] == [bundle.folder.name]


def test_a_foreign_folder_is_never_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"dear")
    with pytest.raises(BundleError, match="is no bundle"):
        tiny.write_bundle(tmp_path / "photos", tiny.FRAME, overwrite=True)
    assert (tmp_path / "photos" / "a.jpg").read_bytes() == b"dear"


def test_a_changed_file_is_refused_by_its_name(bundle):
    path = bundle.folder / "onnx" / "upscale.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"upscale\.onnx was changed.*trt-track export tiny --precision fp16"):
        Bundle.open(bundle.folder).onnx_path("upscale")


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_bytes(b"short")], ids=["missing", "cut"])
def test_a_missing_or_cut_file_is_refused_when_opening(bundle, change):
    change(bundle.folder / "onnx" / "memory_sum.onnx")
    with pytest.raises(BundleError, match=r"memory_sum\.onnx (is missing|has 5 bytes).*trt-track export"):
        Bundle.open(bundle.folder)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_out_of_the_bundle_is_refused(bundle, tmp_path):
    path = bundle.folder / "onnx" / "upscale.onnx"
    outside = tmp_path / "outside.onnx"
    path.rename(outside)
    path.symlink_to(outside)
    with pytest.raises(BundleError, match="leads out of its folder"):
        Bundle.open(bundle.folder)


@pytest.mark.parametrize("file", ["../../etc/passwd", "/etc/passwd", "onnx/../../x", "C:/x", "..\\x", ""])
def test_paths_must_not_leave_the_bundle(bundle, file):
    edit_manifest(bundle.folder, lambda data: data["graphs"]["upscale"]["onnx"].update(file=file))
    with pytest.raises(BundleError, match="leads out of its folder"):
        Bundle.open(bundle.folder)


def test_a_newer_bundle_is_refused(bundle):
    edit_manifest(bundle.folder, lambda data: data.update(format=FORMAT + 1, trt_track="9.0"))
    with pytest.raises(BundleError, match=r"written by trt-track 9\.0, newer than this one .*: upgrade trt-track"):
        Bundle.open(bundle.folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.pop("graphs"),
        lambda data: data.pop("model"),
        lambda data: data.pop("format"),
        lambda data: data.update(format="new"),
        lambda data: data.update(surprise=1),
        lambda data: data.update(graphs=[]),
        lambda data: data["graphs"]["upscale"].pop("onnx"),
        lambda data: data["graphs"]["upscale"]["spec"].update(name="other"),
        lambda data: data["graphs"]["upscale"]["spec"].update(inputs=[["x"]]),
        lambda data: data["model"].update(unknown=3),
    ],
)
def test_a_malformed_manifest_is_one_line(bundle, change):
    edit_manifest(bundle.folder, change)
    with pytest.raises(BundleError, match=r"malformed.*trt-track export") as caught:
        Bundle.open(bundle.folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\udc80"])
def test_a_manifest_that_is_no_json_object(bundle, text):
    (bundle.folder / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BundleError, match=r"manifest\.json (cannot be read|holds no JSON object)"):
        Bundle.open(bundle.folder)


def test_what_is_no_bundle_is_said_so(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "nowhere", tmp_path, tmp_path / "file"):
        with pytest.raises(BundleError, match=r"is not a bundle: write one with trt-track export"):
            Bundle.open(path)


def test_an_unknown_graph_is_named(bundle):
    with pytest.raises(BundleError, match="has no graph 'decoder'; it has memory_sum, upscale"):
        bundle.onnx_path("decoder")


def test_an_atomic_write_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "engine"
    path.write_bytes(b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "text is not bytes")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_seal_tells_what_is_wrong(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    seal = FileRecord.of(tmp_path, tmp_path / "a")
    assert seal.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert seal.problem(tmp_path) is None
    (tmp_path / "a").write_bytes(b"abd")
    assert "SHA-256 differs" in seal.problem(tmp_path)
