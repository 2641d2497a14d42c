import hashlib
import json

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from run_results import frames_of, id_map, ids_by_frame, read_image, read_lines, read_movie

BOX, BOX_2 = "1:265,60,390,250", "2:20,20,200,200"
SIZE_WH = (640, 272)


@pytest.fixture
def track(cli, tiny_bundle, bikes, tmp_path):
    """Run the command on bikes.mp4; `out` is where its results are."""

    def run(*arguments, source=bikes, frames=3, save="jsonl", out=tmp_path / "out"):
        limit = () if frames is None else ("--max-frames", frames)
        run.out = out
        return cli("run", source, "--bundle", tiny_bundle, "--out", out, "--save", save, *limit, *arguments)

    return run


def write_mask(path, values=(1,)):
    """A palette image with one rectangle for each value."""
    pixels = np.zeros(SIZE_WH[::-1], np.uint8)
    for position, value in enumerate(values):
        pixels[60:200, 50 + 200 * position : 200 + 200 * position] = value
    image = Image.fromarray(pixels)
    image.putpalette(list(range(256)) * 3)
    image.save(path)
    return path


def write_prompts(path, *prompts):
    path.write_text(json.dumps({"prompts": list(prompts)}))
    return path


def test_everything_is_written_and_agrees(track, tiny_bundle, bikes):
    done = track("--box", BOX, "--box", BOX_2, "--threads", 1, save="video,jsonl,png", frames=12)
    folder = track.out

    assert done.code == 0
    assert done.out == f"{folder}\n"
    assert done.err.splitlines()[0].startswith("backend: onnxruntime-cpu ")
    assert "12 frames, " in done.err
    assert sorted(path.name for path in folder.iterdir()) == ["masks", "run.json", "tracked.mp4", "tracks.jsonl"]

    lines = read_lines(folder)
    assert [line["frame"] for line in lines] == list(range(12))
    assert [line["time_s"] for line in lines] == pytest.approx([index / 25 for index in range(12)])
    assert sum(len(line["objects"]) for line in lines) > 12  # a model that finds nothing would test nothing
    for line in lines:
        assert set(line) == {"frame", "time_s", "objects"}
        for found in line["objects"]:
            assert set(found) == {"id", "score", "box", "segmentation"}
            assert 0 <= found["score"] <= 1
            assert found["segmentation"]["size"] == [272, 640]
        np.testing.assert_array_equal(read_image(folder, line["frame"]), id_map(line, 272, 640))

    movie = read_movie(folder / "tracked.mp4")
    assert (movie.frames, movie.size_wh, movie.rate) == (12, SIZE_WH, 25)


def test_run_json_tells_what_was_run(track, tiny_bundle, bikes):
    track(
        "--box", BOX, "--point", "1:300,100", "--point", "2@2:30,40,0", "--point", "2@2:50,40", "--max-objects", 3, "--max-conditioning", 2
    )
    run = json.loads((track.out / "run.json").read_text())

    assert set(run) == {"trt_track", "started_at", "settings", "clip", "bundle", "timings", "frames_written"}
    assert run["settings"] == {
        "source": str(bikes),
        "hardware_decode": False,
        "reverse": False,
        "max_frames": 3,
        "save": ["jsonl"],
        "max_objects": 3,
        "max_conditioning": 2,
        "batch_times": None,
        "throughput": False,
        "backend": "onnxruntime-cpu",
        "backend_version": onnxruntime.__version__,
        "device": "CPU",
        "prompts": [
            {"frame": 0, "object": 1, "box": [265, 60, 390, 250], "points": [[300, 100]], "labels": [1]},
            {"frame": 2, "object": 2, "points": [[30, 40], [50, 40]], "labels": [0, 1]},
        ],
    }
    clip = {"width": 640, "height": 272, "frames": 250, "frame_rate": 25.0, "rotation_deg": 0, "damage": None}
    assert run["clip"] == clip
    assert run["bundle"]["folder"] == str(tiny_bundle)
    assert run["bundle"]["source"] == "random weights, seed 0"
    assert run["bundle"]["sha256"] == {
        path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tiny_bundle / "onnx").glob("*.onnx")
    }
    assert run["timings"]["frames"] == run["frames_written"] == 3
    assert run["timings"]["tracking_s"] <= run["timings"]["total_s"]


def test_more_conditioning_frames_than_there_is_room_for_are_refused(track):
    done = track("--box", BOX, "--max-conditioning", 5)
    assert done.code == 2
    assert done.error.startswith("5 conditioning frames of each object are not possible with small: give --max-conditioning")
    assert not track.out.exists()


def test_mask_file_is_the_mask_of_its_frame(track, tmp_path):
    mask = write_mask(tmp_path / "mask.png")
    done = track("--mask", f"1:{mask}", frames=2)
    assert done.code == 0
    found = id_map(read_lines(track.out)[0], 272, 640) == 1
    drawn = np.asarray(Image.open(mask)) == 1
    assert np.logical_and(found, drawn).sum() / np.logical_or(found, drawn).sum() > 0.9


def test_mask_file_with_several_objects_is_read_by_id(track, tmp_path):
    mask = write_mask(tmp_path / "mask.png", values=(3, 7))
    assert track("--mask", f"7:{mask}", "--mask", f"3:{mask}", frames=1).code == 0
    boxes = {found["id"]: found["box"] for found in read_lines(track.out)[0]["objects"]}
    assert boxes[3][0] < boxes[7][0]


def test_prompt_file_starts_corrects_and_removes(track, tmp_path):
    write_mask(tmp_path / "mask.png")
    prompts = write_prompts(
        tmp_path / "prompts.json",
        {"object": 1, "mask": "mask.png"},
        {"frame": 5, "object": 2, "box": [20, 20, 200, 200]},
        {"frame": 8, "object": 1, "points": [[300, 100], [30, 250]], "labels": [1, 0]},
        {"frame": 10, "object": 2, "remove": True},
    )
    assert track("--prompts", prompts, frames=12, save="jsonl,png").code == 0
    ids = ids_by_frame(track.out)
    assert all(2 not in ids[frame] for frame in (*range(5), 10, 11))
    assert all(1 in ids[frame] for frame in range(5))
    assert any(2 in ids[frame] for frame in range(5, 10))
    told = json.loads((track.out / "run.json").read_text())["settings"]["prompts"]
    assert told[0] == {"frame": 0, "object": 1, "mask_pixels": 140 * 150}
    assert told[3] == {"frame": 10, "object": 2, "remove": True}


def test_correction_changes_the_track_from_its_frame_on(track, tmp_path):
    plain, corrected = tmp_path / "plain", tmp_path / "corrected"
    track("--point", "1:300,100", frames=10, out=plain)
    track("--point", "1:300,100", "--point", "8@1:100,200,0", frames=10, out=corrected)
    before, after = read_lines(plain), read_lines(corrected)
    assert after[:8] == before[:8]
    assert all(after[frame] != before[frame] for frame in (8, 9))


def test_objects_do_not_disturb_each_other(track, tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    track("--box", BOX, frames=6, out=alone)
    track("--box", BOX_2, "--box", BOX, "--point", "3@5:100,100", frames=6, out=together)
    for first, second in zip(read_lines(alone), read_lines(together), strict=True):
        assert [found["box"] for found in second["objects"] if found["id"] == 1] == [found["box"] for found in first["objects"]]
    assert frames_of(together) == list(range(6))


def test_tracking_starts_on_the_first_prompted_frame(track):
    assert track("--box", f"5@{BOX}", frames=3).code == 0
    assert frames_of(track.out) == [5, 6, 7]


def test_reverse_runs_to_the_start_of_the_clip(track):
    done = track("--box", f"4@{BOX}", "--reverse", frames=None, save="jsonl,video")
    assert done.code == 0
    assert frames_of(track.out) == [4, 3, 2, 1, 0]
    assert read_movie(track.out / "tracked.mp4").frames == 5


@pytest.mark.parametrize(("frames", "expected"), [(1, [4]), (4, [4, 3, 2, 1]), (5, [4, 3, 2, 1, 0]), (9, [4, 3, 2, 1, 0])])
def test_reverse_stops_after_max_frames(track, frames, expected):
    track("--box", f"4@{BOX}", "--reverse", frames=frames)
    assert frames_of(track.out) == expected


@pytest.mark.parametrize(("frames", "expected"), [(1, [248]), (2, [248, 249]), (3, [248, 249])])
def test_the_end_of_the_clip_is_reached(track, frames, expected):
    assert track("--box", f"248@{BOX}", frames=frames).code == 0
    assert frames_of(track.out) == expected


@pytest.mark.parametrize(
    ("save", "files"),
    [
        ("video", ["tracked.mp4"]),
        ("jsonl", ["tracks.jsonl"]),
        ("png", ["masks"]),
        (" png, jsonl ", ["masks", "tracks.jsonl"]),
    ],
)
def test_only_what_was_asked_for_is_saved(track, save, files):
    assert track("--box", BOX, save=save, frames=2).code == 0
    assert sorted(path.name for path in track.out.iterdir()) == sorted([*files, "run.json"])


def test_a_folder_of_frames_is_tracked_in_the_order_of_its_numbers(track, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for index in (2, 10, 1):
        Image.fromarray(np.full((48, 65, 3), index * 20, np.uint8)).save(folder / f"{index}.jpg")
    done = track("--box", "1:5,5,40,40", source=folder, frames=None, save="video,jsonl,png")
    assert done.code == 0
    assert frames_of(track.out) == [0, 1, 2]
    assert read_movie(track.out / "tracked.mp4").size_wh == (66, 48)  # 4:2:0 colour needs even sizes
    assert read_image(track.out, 0).shape == (48, 65)


def test_results_go_to_runs_by_default(cli, tiny_bundle, carphone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli("run", carphone, "--bundle", tiny_bundle, "--point", "1:80,60", "--max-frames", 1, "--save", "jsonl")
    assert done.out == "runs/carphone_pristine\n"
    assert frames_of(tmp_path / "runs" / "carphone_pristine") == [0]


def test_an_odd_frame_rate_is_kept(cli, tiny_bundle, carphone, tmp_path):
    cli("run", carphone, "--bundle", tiny_bundle, "--point", "1:80,60", "--max-frames", 8, "--out", tmp_path / "out")
    movie = read_movie(tmp_path / "out" / "tracked.mp4")
    assert (movie.frames, movie.size_wh) == (8, (176, 144))
    assert float(movie.rate) == pytest.approx(30000 / 1001, rel=1e-3)


def test_a_model_is_found_in_the_library(cli, tiny_bundle, carphone, tmp_path, monkeypatch):
    monkeypatch.setenv("TRT_TRACK_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "cache" / "bundles" / "small-128-fp32"
    place.parent.mkdir(parents=True)
    place.symlink_to(tiny_bundle)
    common = ("run", carphone, "--point", "1:80,60", "--max-frames", 1, "--save", "jsonl", "--out")
    assert cli(*common, tmp_path / "a", "--model", "small").code == 0
    assert cli(*common, tmp_path / "b", "--model", "small", "--size", 128, "--precision", "fp32").code == 0
    assert cli(*common, tmp_path / "c", "--model", place).code == 0
    for wrong in (("small", "--size", 256), ("small", "--precision", "fp16"), ("smal",), ("sm*",), ("**",), ("/no/such",), ("[",), ("",)):
        assert cli(*common, tmp_path / "d", "--model", *wrong).error.startswith(f"no bundle of {wrong[0]!r} in ")
    assert not (tmp_path / "d").exists()


def test_a_finished_run_is_replaced_only_when_asked_to(track):
    track("--box", BOX, frames=3, save="jsonl,png")
    before = (track.out / "tracks.jsonl").read_bytes()
    assert "holds a finished run" in track("--box", BOX, frames=1).error
    assert (track.out / "tracks.jsonl").read_bytes() == before
    assert track("--box", BOX, "--overwrite", frames=1).code == 0
    assert frames_of(track.out) == [0]
    assert not (track.out / "masks" / "00002.png").exists()


def test_a_bad_prompt_leaves_the_finished_run_alone(track):
    track("--box", BOX)
    before = {path.name: path.read_bytes() for path in track.out.iterdir()}
    assert track("--box", "999@1:1,1,2,2", "--overwrite").error
    assert {path.name: path.read_bytes() for path in track.out.iterdir()} == before


def test_a_clip_that_the_gpu_does_not_take_is_decoded_all_the_same(track, bikes, monkeypatch, caplog):
    from trt_track.runtime import container

    really_open = container.av.open

    def opened(*arguments, hwaccel=None, **options):
        return really_open(*arguments, **options)

    monkeypatch.setattr(container.av, "open", opened)
    done = track("--box", BOX, "--hardware-decode")
    assert done.code == 0
    assert f"{bikes} is not decoded by the GPU (h264): the CPU decodes it" in caplog.text
    assert json.loads((track.out / "run.json").read_text())["settings"]["hardware_decode"] is False


def test_a_gpu_without_a_video_decoder_is_an_error(track, bikes, monkeypatch):
    from trt_track.runtime import container

    really_open = container.av.open

    def refused(*arguments, hwaccel=None, **options):
        if hwaccel is not None:
            raise container.av.error.PermissionError(1, "Operation not permitted")
        return really_open(*arguments, **options)

    monkeypatch.setattr(container.av, "open", refused)
    assert track("--box", BOX, "--hardware-decode").error.startswith(
        f"{bikes}: the GPU's video decoder cannot be opened (Operation not permitted)"
    )
    assert not track.out.exists()
