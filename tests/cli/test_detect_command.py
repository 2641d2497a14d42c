"""`trt-track detect`, and `run` with what it finds."""

import json
import shutil

import numpy as np
import onnx
import pytest
from command_line import run_process
from onnx import TensorProto, helper, numpy_helper

from trt_track.models import GROUNDING_DINO_PICO_BUNDLE, PICO_BUNDLE

BOXES = ([220, 150, 100, 60, 0.9, 0.0], [60, 170, 60, 60, 0.0, 0.8])
"""Centre and size in the 320 px of the model, scores of a person and of a bag."""


@pytest.fixture(scope="module")
def yolo(tmp_path_factory):
    """A detector that sees the same two things on every frame."""
    folder = tmp_path_factory.mktemp("yolo")
    rows = np.zeros((1, 6, 2100), np.float32)
    rows[0, :, : len(BOXES)] = np.transpose(BOXES)
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "rows"], ["found"]),
    ]
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("images", [1, 3, 320, 320]), ("found", [1, 6, 2100]))
    ]
    constants = [numpy_helper.from_array(rows, "rows"), numpy_helper.from_array(np.float32(0), "zero")]
    graph = helper.make_graph(nodes, "detector", tensors[:1], tensors[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "detector.onnx")
    (folder / "detector.json").write_text('{"classes": ["person", "bag"], "size": 320}')
    return folder


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


class TestDetect:
    def test_writes_a_line_a_frame(self, cli, bikes, yolo, tmp_path):
        file = tmp_path / "found" / "bikes.jsonl"
        done = cli("detect", bikes, "--detector", yolo, "--detect-every", 4, "--max-frames", 9, "--out", file)
        assert done.code == 0, done.err
        assert done.out == f"{file}\n"
        assert "6 boxes on 3 frames found" in done.err
        header, *frames, last = lines_of(file)
        assert header["header"]["clip"]["name"] == "bikes.mp4"
        assert [frame["frame"] for frame in frames] == [0, 4, 8]
        assert [one["label"] for one in frames[0]["detections"]] == ["person", "bag"]
        assert frames[0]["detections"][0]["box"] == [340.0, 56.0, 540.0, 176.0]  # half the size, 92 px of bar above
        assert (last["finished"], last["frames"]) == (True, 3)
        assert last["peak_memory_bytes"]["resident"] > 50_000_000
        assert last["peak_memory_bytes"]["gpu"] is None

    def test_a_finished_file_is_not_made_again(self, cli, bikes, yolo, tmp_path):
        file = tmp_path / "bikes.jsonl"
        asked = ("detect", bikes, "--detector", yolo, "--out", file)
        cli(*asked)
        made = file.stat().st_mtime_ns
        assert "were there already" in cli(*asked).err
        assert file.stat().st_mtime_ns == made
        assert "1 boxes on 1 frame found" in cli(*asked, "--classes", "bag").err
        assert [one["label"] for one in lines_of(file)[1]["detections"]] == ["bag"]

    def test_a_finished_file_needs_no_detector_to_be_known_again(self, cli, bikes, tmp_path, monkeypatch):
        from trt_track.runtime.grounding_dino import GroundingDino

        file = tmp_path / "bikes.jsonl"
        asked = ("detect", bikes, "--detector", GROUNDING_DINO_PICO_BUNDLE, "--text", "red circle.", "--out", file)
        assert "1 frame found" in cli(*asked).err
        monkeypatch.setattr(GroundingDino, "open", lambda *_, **__: pytest.fail("it was loaded"))
        assert "1 frame were there already" in cli(*asked).err
        assert json.loads(file.read_text().splitlines()[0])["header"]["detector"]["text"] == "red circle."

    def test_a_clip_is_not_replaced_by_what_is_found_in_it(self, cli, bikes, yolo, tmp_path):
        clip = shutil.copyfile(bikes, tmp_path / "clip.mp4")
        done = cli("detect", clip, "--detector", yolo, "--out", clip)
        assert done.error == f"{clip}: is there already and holds no detections: choose another --out"
        assert clip.read_bytes() == bikes.read_bytes()
        assert cli("detect", clip, "--detector", yolo, "--out", tmp_path).error.startswith(f"{tmp_path}: is there already")

    @pytest.mark.parametrize(
        ("backend", "message"), [("cuda", "backend 'cuda' is unknown"), ("tensorrt-rtx", "a YOLO runs on onnxruntime-cpu")]
    )
    def test_a_yolo_refuses_other_backends(self, cli, bikes, yolo, tmp_path, backend, message):
        done = cli("detect", bikes, "--detector", yolo, "--backend", backend, "--out", tmp_path / "found.jsonl")
        assert message in done.error
        assert cli("detect", bikes, "--detector", yolo, "--backend", "onnxruntime-cpu", "--out", tmp_path / "found.jsonl").code == 0

    def test_a_text_threshold_of_0_is_refused_and_not_taken_for_none(self, cli, bikes, tmp_path):
        options = ("--detector", GROUNDING_DINO_PICO_BUNDLE, "--text", "red circle.", "--text-threshold", 0)
        assert cli("detect", bikes, *options, "--out", tmp_path / "found.jsonl").error.startswith(
            "the text threshold is 0.0: choose a number"
        )

    def test_text(self, cli, bikes, tiny_detector, tmp_path):
        file = tmp_path / "bikes.jsonl"
        done = cli("detect", bikes, "--detector", tiny_detector, "--text", "Cat. a dog", "--box-threshold", 0.01, "--out", file)
        assert done.code == 0, done.err
        header, frame, _ = lines_of(file)
        assert header["header"]["detector"]["text"] == "cat. a dog."
        assert {one["label"] for one in frame["detections"]} <= {"cat", "a dog"}
        assert len(frame["detections"]) > 3

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ((), "nothing to detect: say what with --text"),
            (("--text", "cat."), "grounding-dino-pico has no token for 'cat': it knows only red, "),
            (("--detector", "no-such"), "no-such is neither a folder nor in "),
            (("--detector", "YOLO", "--text", "cat."), "YOLO is no detector for text prompts"),
            (("--detector", "YOLO", "--classes", "persn"), "YOLO/detector.onnx knows no class 'persn'"),
            (("--detector", "DINO"), "small looks for what a text names"),
            (("--detector", "DINO", "--text", "cat", "--classes", "cat"), "small looks for what a text names"),
            (("--detector", "DINO", "--text", " "), "the text prompt is empty"),
            (("--detector", "DINO", "--text", "a " * 300), "the text prompt has 303 tokens, small reads 256"),
            (("--detector", "DINO", "--text", "cat. ☂."), "small has no token for '☂'"),
            (("--detector", "DINO", "--text", "cat", "--box-threshold", 2), "the box threshold is 2.0"),
            (("--detector", "SAM"), "SAM holds the tracker small, which cannot detect"),
        ],
    )
    def test_refusals(self, cli, bikes, yolo, tiny_detector, tiny_bundle, tmp_path, monkeypatch, options, message):
        monkeypatch.setenv("TRT_TRACK_CACHE", str(tmp_path / "cache"))
        places = {"YOLO": str(yolo), "DINO": str(tiny_detector), "SAM": str(tiny_bundle)}
        done = cli("detect", bikes, *(places.get(part, part) for part in options), "--out", tmp_path / "found.jsonl")
        assert done.code == 2
        for short, place in places.items():
            message = message.replace(short, place)
        assert done.error.startswith(message)
        assert not (tmp_path / "found.jsonl").exists()


class TestRun:
    def test_finds_and_tracks(self, bikes, yolo, tiny_bundle, tmp_path):
        """In a process of its own: its peak of memory is its own, and the first stage's that of another."""
        out = tmp_path / "out"
        found = ("--detector", yolo, "--detect-every", 3)
        done = run_process("run", bikes, "--bundle", tiny_bundle, *found, "--max-frames", 5, "--save", "jsonl", "--out", out)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{out}\n"
        frames = lines_of(out / "tracks.jsonl")
        assert [frame["frame"] for frame in frames] == list(range(5))
        told = json.loads((out / "run.json").read_text())
        assert told["detection"]["frames"] == [0, 3]
        assert {one["label"] for one in told["objects"]} <= {"person", "bag"}
        assert {one["id"]: one["label"] for frame in frames for one in frame["objects"]}.items() <= {
            (one["id"], one["label"]) for one in told["objects"]
        }
        found = tmp_path / "out.detections.jsonl"
        assert told["peak_memory_bytes"]["detection"] == lines_of(found)[-1]["peak_memory_bytes"]
        assert told["peak_memory_bytes"]["tracking"]["resident"] > 50_000_000
        assert told["peak_memory_bytes"]["tracking"]["gpu"] is None
        assert (told["settings"]["max_lost"], told["settings"]["look_back"]) == (30, 6)

    def test_nothing_found_is_an_empty_result(self, cli, bikes, yolo, tiny_bundle, tmp_path):
        options = ("--detector", yolo, "--box-threshold", 0.95, "--max-frames", 3, "--save", "jsonl", "--out", tmp_path / "out")
        done = cli("run", bikes, "--bundle", tiny_bundle, *options)
        assert done.code == 0, done.err
        assert "nothing was found" in done.err
        assert [frame["objects"] for frame in lines_of(tmp_path / "out" / "tracks.jsonl")] == [[], [], []]

    def test_tracks_a_file_of_detections(self, cli, bikes, yolo, tiny_bundle, tmp_path):
        """Of the same clip under another name; what it took to make the file is told as the file tells it."""
        file = tmp_path / "found.jsonl"
        cli("detect", bikes, "--detector", yolo, "--out", file)
        lines = lines_of(file)
        lines[-1]["peak_memory_bytes"] = {"resident": 12345, "gpu": 678}
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        clip = shutil.copyfile(bikes, tmp_path / "renamed.mp4")
        options = ("--detections", file, "--max-frames", 2, "--save", "jsonl", "--out", tmp_path / "out")
        done = cli("run", clip, "--bundle", tiny_bundle, *options)
        assert done.code == 0, done.err
        assert len(lines_of(tmp_path / "out" / "tracks.jsonl")) == 2
        told = json.loads((tmp_path / "out" / "run.json").read_text())
        assert told["peak_memory_bytes"]["detection"] == {"resident": 12345, "gpu": 678}

    def test_a_file_of_another_clip_is_refused(self, cli, bikes, yolo, tmp_path):
        file = tmp_path / "found.jsonl"
        cli("detect", bikes, "--detector", yolo, "--out", file)
        longer = tmp_path / "longer.mp4"
        longer.write_bytes(bikes.read_bytes() + bytes(8))
        done = cli("run", longer, "--detections", file, "--out", tmp_path / "out")
        assert done.error.startswith(f"{file} is of another clip, of 640x272 pixels, 250 frames, {bikes.stat().st_size} bytes")

    def test_results_in_the_current_folder(self, cli, bikes, yolo, tiny_bundle, tmp_path, monkeypatch):
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        done = cli("run", bikes, "--bundle", tiny_bundle, "--detector", yolo, "--max-frames", 1, "--save", "jsonl", "--out", ".")
        assert done.code == 0, done.err
        assert (tmp_path / "here" / "tracks.jsonl").is_file()
        assert (tmp_path / "here.detections.jsonl").is_file()

    @pytest.mark.parametrize(
        ("model", "message"),
        [
            (("--model", "nosuch"), "no bundle of 'nosuch' in "),
            (("--backend", "tensorrt"), "backend tensorrt cannot be used: "),
            (("--bundle", GROUNDING_DINO_PICO_BUNDLE), f"{GROUNDING_DINO_PICO_BUNDLE} holds the detector grounding-dino-pico"),
        ],
    )
    def test_nothing_is_detected_for_a_tracker_that_cannot_be_used(self, cli, bikes, yolo, tmp_path, monkeypatch, model, message):
        monkeypatch.setattr("trt_track.cli.detected_run.run_detection", lambda *_: pytest.fail("it was detected first"))
        assert cli("run", bikes, "--detector", yolo, *model, "--out", tmp_path / "out").error.startswith(message)

    def test_what_detection_refuses_ends_the_run(self, bikes, yolo, tiny_bundle, tmp_path):
        done = run_process("run", bikes, "--bundle", tiny_bundle, "--detector", yolo, "--classes", "cow", "--out", tmp_path / "out")
        assert done.returncode == 2
        assert done.stderr.strip().splitlines()[-1].startswith(f"error: {yolo}/detector.onnx knows no class 'cow'")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--text", "cat", "--box", "1:1,2,30,40"), "detected objects are tracked from frame 0 on"),
            (("--text", "cat", "--reverse"), "detected objects are tracked from frame 0 on"),
            (("--text", "cat", "--detections", "found.jsonl"), "give either --detections FILE or what to detect"),
            (("--detect-every", "5"), "these options are for detected objects"),
            (("--box", "1:1,2,30,40", "--look-back", "0"), "these options are for detected objects"),
            (
                ("--detections", "found.jsonl", "--detect-every", "5", "--scene-cuts", "--max-lost", "5"),
                "--detections names what was found already: leave out --detect-every, --scene-cuts, or",
            ),
            (
                ("--detections", "found.jsonl", "--box-threshold", "0", "--text-threshold", "0.5", "--classes", "cat"),
                "--detections names what was found already: leave out --classes, --box-threshold, --text-threshold, or",
            ),
            (("--detections", "no-such.jsonl"), "no-such.jsonl: no such file: trt-track detect writes it"),
        ],
    )
    def test_refusals(self, cli, bikes, tmp_path, options, message):
        done = cli("run", bikes, *options, "--out", tmp_path / "out")
        assert done.code == 2
        assert done.error.startswith(message)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("keep", [1, 2])
    def test_an_unfinished_file_is_refused(self, cli, bikes, yolo, tmp_path, keep):
        file = tmp_path / "found.jsonl"
        cli("detect", bikes, "--detector", yolo, "--out", file)
        file.write_text("".join(line + "\n" for line in file.read_text().splitlines()[:keep]))
        assert "is not complete, detection was interrupted" in cli("run", bikes, "--detections", file, "--out", tmp_path / "out").error


class TestLookBack:
    @pytest.fixture(scope="class")
    def late(self, tmp_path_factory):
        """Ten frames of the drawn scene, and detections of its square that begin on frame 5 alone, of a look at every so many frames."""
        from trt_track.cli.demo_clips import draw_clip
        from trt_track.runtime.results import mask_boxes

        folder = tmp_path_factory.mktemp("late")
        clip = draw_clip(folder / "scene.mp4", 10, lambda done, total: None)
        box = mask_boxes((clip.truth[5] == 1)[None])[0].tolist()
        height, width = clip.truth[0].shape
        found = [{"box": box, "score": 0.9, "label": "square", "words": "square"}]
        header = {"format": 1, "clip": {"name": "scene.mp4", "width": width, "height": height}, "detector": {"text": "square."}}

        def write(every):
            lines = [
                {"header": header | {"schedule": {"every": every}}},
                {"frame": 0, "detections": []},
                {"frame": 5, "detections": found},
                {"finished": True, "frames": 2},
            ]
            file = folder / f"found_{every}.jsonl"
            file.write_text("".join(json.dumps(line) + "\n" for line in lines))
            return clip.path, file

        return write

    @pytest.mark.parametrize(
        ("every", "options", "first"),
        [(None, (), 5), (None, ("--look-back", 3), 2), (None, ("--look-back", 9), 0), (2, (), 1), (5, (), 0), (5, ("--look-back", 0), 5)],
    )
    def test_an_object_is_there_before_it_was_found(self, cli, late, tmp_path, every, options, first):
        """Also on a frame that was looked at in vain: the detector may have missed it. By default twice the step between looks."""
        clip, file = late(every)
        done = cli("run", clip, "--detections", file, "--bundle", PICO_BUNDLE, "--save", "jsonl", "--out", tmp_path / "run", *options)
        assert done.code == 0, done.err
        seen = [line["frame"] for line in lines_of(tmp_path / "run" / "tracks.jsonl") if line["objects"]]
        assert seen == list(range(first, 10)), seen

    @pytest.mark.parametrize(("every", "expected"), [(None, 0), (1, 2), (10, 20), (20, 40), (300, 40)])
    def test_how_far_where_nothing_is_said(self, every, expected):
        from trt_track.cli.detected_run import usual_look_back
        from trt_track.runtime.detections import DetectionFile

        assert usual_look_back(DetectionFile({"schedule": {"every": every}}, ())) == expected
        assert usual_look_back(DetectionFile({}, ())) == 0

    def test_it_is_for_detected_objects(self, cli, bikes):
        error = cli("run", bikes, "--box", "1:10,10,50,50", "--look-back", 5).error
        assert error.startswith("these options are for detected objects: say what to find with --text")
