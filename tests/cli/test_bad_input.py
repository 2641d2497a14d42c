"""Every bad input ends with one line on stderr and exit code 2, before anything is written."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from PIL import Image

BOX = "1:265,60,390,250"
PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"


@pytest.fixture
def refused(cli, tiny_bundle, bikes, tmp_path):
    """Run the command with something wrong in it and return the message; the folder of results must not exist."""

    def run(*arguments, source=bikes, bundle=("--bundle", tiny_bundle)):
        out = tmp_path / "results" / "out"
        done = cli("run", source, *bundle, "--out", out, *arguments)
        assert not out.parent.exists()
        assert done.out == ""
        return done.error

    return run


@pytest.fixture
def copied_bundle(tiny_bundle, tmp_path):
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


def edit_manifest(bundle, edit):
    path = bundle / "manifest.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


class TestClip:
    def test_missing(self, refused, tmp_path):
        assert refused("--box", BOX, source=tmp_path / "no.mp4") == f"no such file or folder: {tmp_path}/no.mp4"

    @pytest.mark.parametrize("content", [b"this is no video\n", b"\x00\x00\x00\x18ftypmp42" + bytes(100)])
    def test_unreadable(self, refused, tmp_path, content):
        clip = tmp_path / "text.mp4"
        clip.write_bytes(content)
        assert refused("--box", BOX, source=clip).startswith(f"{clip}: not a video")

    def test_zero_bytes(self, refused, tmp_path):
        clip = tmp_path / "empty.mp4"
        clip.touch()
        assert refused("--box", BOX, source=clip) == f"{clip}: the file is empty"

    def test_zero_frames(self, refused, tmp_path):
        clip = tmp_path / "none.y4m"
        clip.write_bytes(b"YUV4MPEG2 W64 H48 F25:1 Ip A1:1 C420\n")
        assert "the video holds no frames" in refused("--box", BOX, source=clip)

    def test_folder_without_images(self, refused, tmp_path):
        (tmp_path / "frames").mkdir()
        (tmp_path / "frames" / "notes.txt").write_text("none")
        assert "the folder holds no frames" in refused("--box", BOX, source=tmp_path / "frames")

    @pytest.mark.parametrize("url", ["https://example.org/clip.mp4", "rtsp://example.org/1", "http:/example.org"])
    def test_url(self, refused, url):
        assert refused("--box", BOX, source=url).startswith("URLs are not supported yet: download the clip first")

    def test_playlists_named_like_a_clip(self, refused, tmp_path, bikes):
        clip = tmp_path / "list.mp4"
        for content in (f"ffconcat version 1.0\nfile {bikes}\n", PLAYLIST.format(bikes)):
            clip.write_text(content)
            assert refused("--box", BOX, source=clip).startswith(f"{clip}: not a video")


class TestPrompts:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "nothing to track: prompt with --box"),
            (["--point", "1:640,10"], "object 1 on frame 0: click 640,10 lies outside the frame of 640x272 pixels"),
            (["--point", "1:10,-1"], "object 1 on frame 0: click 10,-1 lies outside"),
            (["--point", "1:nan,5"], "object 1 on frame 0: click nan,5 lies outside"),
            (["--box", "1:0,0,641,10"], "object 1 on frame 0: box 0,0,641,10 leaves the frame of 640x272"),
            (["--box", f"250@{BOX}"], "object 1 on frame 250: the clip has 250 frames, numbered 0 to 249"),
            (["--box", BOX, "--box", "1:1,1,9,9"], "object 1 on frame 0 has 2 boxes: keep one"),
            (["--point", "1:10,10,0"], "object 1 on frame 0: its first prompt has only negative clicks"),
            (["--box", "3@1:1,1,9,9", "--point", "2@1:5,5,0"], "object 1 on frame 2: its first prompt has only negative clicks"),
            (["--box", "1:10,10,10,20"], "object 1 on frame 0: box 10,10,10,20 has no area"),
            (["--box", "1:20,10,10,20"], "object 1 on frame 0: box 20,10,10,20 has its corners swapped"),
            (["--box", "1:1,2,3"], "box '1:1,2,3': expected 4 numbers"),
            (["--box", "x:1,2,3,4"], "box 'x:1,2,3,4' is not of the form"),
            (["--point", "1:1,2,5"], "point '1:1,2,5': the third number is 1 (inside the object) or 0"),
            (["--box", "0:1,1,9,9"], "object 0 on frame 0: object ids start at 1"),
            (["--mask", "1:no/such.png"], "mask no/such.png does not exist"),
            (["--prompts", "no/such.json"], "cannot read prompts no/such.json"),
            (["--box", BOX, "--save", "gif"], "cannot save gif: choose from video, jsonl, png"),
            (["--box", BOX, "--save", ","], "--save names nothing to write"),
            (["--box", BOX, "--box", "2:1,1,9,9", "--max-objects", 1], "frame 0: more than 1 objects at once"),
            (["--box", BOX, "--box", "9@2:1,1,9,9", "--max-objects", 1], "frame 9: more than 1 objects at once"),
        ],
    )
    def test_on_the_command_line(self, refused, arguments, message):
        assert refused(*arguments).startswith(message)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "are no JSON"),
            ("[]", 'must be {"prompts": [...]}'),
            ('{"prompts": []}', "nothing to track"),
            ('{"prompts": [{"object": 9, "frame": 4, "remove": true}]}', "object 9 on frame 4 is removed before anything started it"),
            ('{"prompts": [{"object": 1, "boxes": [1, 2, 3, 4]}]}', "prompt 1 has the unknown key 'boxes'"),
            ('{"prompts": [{"object": 1, "points": [[9, 9]], "labels": [1, 0]}]}', "as many labels"),
            ('{"prompts": [{"object": 1}]}', "object 1 on frame 0 says nothing"),
            ('{"prompts": [{"object": 1, "points": [[1e400, 9]]}]}', "outside the frame"),
        ],
    )
    def test_in_a_file(self, refused, tmp_path, content, message):
        (tmp_path / "prompts.json").write_text(content)
        assert message in refused("--prompts", tmp_path / "prompts.json")

    def test_removal_of_an_unknown_id_beside_a_known_one(self, refused, tmp_path):
        (tmp_path / "prompts.json").write_text('{"prompts": [{"object": 2, "frame": 3, "remove": true}]}')
        assert "object 2 on frame 3 is removed before" in refused("--box", BOX, "--prompts", tmp_path / "prompts.json")

    @pytest.mark.parametrize(
        ("size_wh", "value", "message"),
        [((640, 272), 0, "the mask is empty"), ((272, 640), 1, "the mask has 272x640 pixels, the clip 640x272"), ((64, 27), 0, "64x27")],
    )
    def test_mask(self, refused, tmp_path, size_wh, value, message):
        Image.fromarray(np.full(size_wh[::-1], value, np.uint8)).save(tmp_path / "mask.png")
        assert message in refused("--mask", f"1:{tmp_path / 'mask.png'}")

    def test_mask_that_is_no_image(self, refused, tmp_path):
        (tmp_path / "mask.png").write_text("no image")
        assert "cannot be read as an image" in refused("--mask", f"1:{tmp_path / 'mask.png'}")


class TestModel:
    def test_both_bundle_and_model(self, refused, tiny_bundle):
        message = refused("--box", BOX, bundle=("--bundle", tiny_bundle, "--model", "small"))
        assert message == "give either --bundle FOLDER or --model NAME, not both"

    def test_unknown_name(self, refused, tmp_path, monkeypatch):
        monkeypatch.setenv("TRT_TRACK_CACHE", str(tmp_path))
        message = refused("--box", BOX, bundle=("--model", "sam2.1-hiera-tiny"))
        assert message.startswith(f"no bundle of 'sam2.1-hiera-tiny' in {tmp_path}")
        assert "trt-track export sam2.1-hiera-tiny" in message

    @pytest.mark.parametrize("content", [None, "no JSON", "[]", "{}", '{"format": 1, "graphs": {}}'])
    def test_folder_that_is_no_bundle(self, refused, tmp_path, content):
        folder = tmp_path / "bundle"
        folder.mkdir()
        if content is not None:
            (folder / "manifest.json").write_text(content)
        assert str(folder) in refused("--box", BOX, bundle=("--bundle", folder))

    def test_changed_onnx_file(self, refused, copied_bundle):
        path = copied_bundle / "onnx" / "mask_decoder.onnx"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        message = refused("--box", BOX, bundle=("--bundle", copied_bundle))
        assert "mask_decoder.onnx" in message
        assert "run trt-track export small --precision fp32 again" in message

    def test_onnx_file_cut_off(self, refused, copied_bundle):
        path = copied_bundle / "onnx" / "image_encoder.onnx"
        path.write_bytes(path.read_bytes()[:-1])
        assert "image_encoder.onnx" in refused("--box", BOX, bundle=("--bundle", copied_bundle))

    def test_onnx_file_that_is_no_graph_though_its_hash_is_right(self, refused, copied_bundle):
        path = copied_bundle / "onnx" / "mask_upscale.onnx"
        path.write_bytes(b"no graph")

        def seal(manifest):
            manifest["graphs"]["mask_upscale"]["onnx"] |= {"sha256": hashlib.sha256(b"no graph").hexdigest(), "bytes": 8}

        edit_manifest(copied_bundle, seal)
        assert "ONNX Runtime cannot load graph 'mask_upscale'" in refused("--box", BOX, bundle=("--bundle", copied_bundle))

    def test_manifest_of_a_newer_version(self, refused, copied_bundle):
        edit_manifest(copied_bundle, lambda manifest: manifest.update(format=99, trt_track="9.9"))
        assert "was written by trt-track 9.9, newer than this one" in refused("--box", BOX, bundle=("--bundle", copied_bundle))

    def test_unknown_backend(self, refused):
        assert refused("--box", BOX, "--backend", "cuda").startswith("backend 'cuda' is unknown: choose one of auto, ")

    @pytest.mark.parametrize("backend", ["tensorrt-rtx", "tensorrt"])
    def test_backend_that_has_no_engines_or_no_gpu_here(self, refused, backend):
        assert refused("--box", BOX, "--backend", backend).startswith(f"backend {backend} cannot be used: ")


class TestResults:
    def test_id_that_no_palette_image_can_hold(self, refused, cli, tiny_bundle, bikes, tmp_path):
        assert "palette images hold object ids from 1 to 255, not 256" in refused("--box", "256:1,1,9,9")
        arguments = ("--box", "256:1,1,9,9", "--save", "jsonl", "--max-frames", 1, "--out", tmp_path / "out")
        assert cli("run", bikes, "--bundle", tiny_bundle, *arguments).code == 0

    def test_folder_that_is_a_file(self, cli, bikes, tiny_bundle, tmp_path):
        (tmp_path / "out").write_text("mine")
        done = cli("run", bikes, "--bundle", tiny_bundle, "--box", BOX, "--out", tmp_path / "out", "--overwrite")
        assert "is a file, not a folder" in done.error
        assert (tmp_path / "out").read_text() == "mine"

    def test_files_that_no_run_wrote(self, cli, bikes, tiny_bundle, tmp_path):
        (tmp_path / "tracks.jsonl").write_text("mine")
        done = cli("run", bikes, "--bundle", tiny_bundle, "--box", BOX, "--out", tmp_path, "--overwrite")
        assert "which no run of this program wrote" in done.error
        assert (tmp_path / "tracks.jsonl").read_text() == "mine"

    def test_folder_that_nobody_can_write_to(self, refused, bikes, cli, tiny_bundle):
        done = cli("run", bikes, "--bundle", tiny_bundle, "--box", BOX, "--out", "/proc/trt-track/out", "--max-frames", 1)
        assert done.error.startswith("/proc")


@pytest.mark.parametrize("arguments", [["--max-frames", 0], ["--threads", 0], ["--max-objects", 65], ["--no-such-option"]])
def test_what_the_parser_refuses(cli, bikes, tiny_bundle, arguments):
    done = cli("run", bikes, "--bundle", tiny_bundle, "--box", BOX, *arguments)
    assert done.code == 2
    assert done.out == ""
    assert "Traceback" not in done.err
