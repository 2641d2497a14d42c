"""The demonstration, end to end with few frames."""

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image
from run_results import ids_by_frame, read_lines, read_movie

from trt_track.cli import demo_clips, detected_run
from trt_track.cli.demo_clips import REAL_FRAMES, REAL_PROMPT, TruthScore, draw_clip
from trt_track.cli.package_file import package_file
from trt_track.runtime.results import FrameResult
from trt_track.runtime.tracker import Tracker
from trt_track.scenes.demonstration import FRAME_RATE, FRAMES, PHRASES, SIZE_WH, demonstration_scene


@pytest.fixture
def demo(cli, tiny_bundle, tmp_path, monkeypatch):
    """Run the command with a model that is fast and knows nothing."""
    monkeypatch.setenv("TRT_TRACK_CACHE", str(tmp_path / "cache"))

    def run(*arguments, bundle=("--bundle", tiny_bundle)):
        return cli("demo", "--out", tmp_path / "demo", *bundle, *arguments)

    return run


@pytest.fixture
def without(monkeypatch):
    """Hide packages, as if they were not installed."""
    find = importlib.util.find_spec

    def hide(*names):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None if name in names else find(name, package))

    return hide


def test_both_clips_are_tracked_and_told(demo, tmp_path):
    done = demo("--frames", 4, "--threads", 1, bundle=("--model", "pico"))
    assert done.code == 0
    assert 'looking for "checked square. red blob. yellow star."' in done.err
    scene, bikes = done.out.splitlines()
    assert scene.startswith(f"{tmp_path}/demo/scene/tracked.mp4 (4 frames, 3 objects, ")
    assert " frames a second, mean IoU 0." in scene
    assert bikes.startswith(f"{tmp_path}/demo/bikes/tracked.mp4 (4 frames, 1 object, ")
    assert "IoU" not in bikes

    movie = read_movie(tmp_path / "demo" / "scene" / "tracked.mp4")
    assert (movie.frames, movie.size_wh, movie.rate) == (4, SIZE_WH, FRAME_RATE)
    assert [line["frame"] for line in read_lines(tmp_path / "demo" / "bikes")] == [76, 77, 78, 79]
    assert set().union(*ids_by_frame(tmp_path / "demo" / "scene").values()) <= {1, 2, 3}
    run = json.loads((tmp_path / "demo" / "scene" / "run.json").read_text())
    assert sorted(one["label"] for one in run["objects"]) == sorted(PHRASES)
    assert run["settings"]["source"] == f"{tmp_path}/demo/scene.mp4"


def test_it_detects_before_it_loads_the_tracker_with_the_same_backend_and_cores(demo, monkeypatch):
    done = []

    def detect(source, options):
        done.append({name: options[name] for name in ("--backend", "--threads", "--detect-every")})
        return run_detection(source, options)

    def load(*arguments, **options):
        done.append("the tracker is loaded")
        return of_bundle(*arguments, **options)

    run_detection, of_bundle = detected_run.run_detection, Tracker.of_bundle
    monkeypatch.setattr(detected_run, "run_detection", detect)
    monkeypatch.setattr(Tracker, "of_bundle", load)
    assert demo("--frames", 1, "--backend", "onnxruntime-cpu", "--threads", 1).code == 0
    assert done == [{"--backend": "onnxruntime-cpu", "--threads": 1, "--detect-every": 5}, "the tracker is loaded"]


def test_a_second_demonstration_replaces_the_first(demo, tmp_path):
    assert demo("--frames", 2).code == 0
    assert demo("--frames", 1).code == 0
    assert [line["frame"] for line in read_lines(tmp_path / "demo" / "scene")] == [0]
    assert read_movie(tmp_path / "demo" / "scene.mp4").frames == 1


def test_pico_is_taken_where_no_model_is_named(demo):
    done = demo("--frames", 1, bundle=())
    assert done.code == 0
    assert done.err.startswith("model: pico (256 px, a small demonstration model); for a better one: ")


def test_without_the_packages_a_drawn_scene_is_left(demo, without, tmp_path):
    without("skimage", "skvideo")
    done = demo("--frames", 2)
    assert done.code == 0
    assert len(done.out.splitlines()) == 1
    advice = [line for line in done.err.splitlines() if "trt-track[demo]" in line]
    assert [line.split(": ")[0] for line in advice] == ["scikit-image is missing", "scikit-video is missing"]
    assert not (tmp_path / "demo" / "bikes").exists()


def test_bad_input(demo, cli, tmp_path, tiny_bundle):
    assert demo("--model", "pico").error == "give either --bundle FOLDER or --model NAME, not both"
    assert demo(bundle=("--model", "no")).error.startswith("no bundle of 'no' in ")
    assert demo("--backend", "cuda").error.startswith("backend 'cuda' is unknown")
    for frames in (0, 121):
        assert demo("--frames", frames).code == 2
    assert not (tmp_path / "demo").exists()
    (tmp_path / "demo").write_text("mine")
    assert demo().error.startswith(f"{tmp_path}/demo: ")
    assert (tmp_path / "demo").read_text() == "mine"
    assert cli("demo", "--bundle", tiny_bundle, "--out", "/proc/no/demo").error.startswith("/proc/no/demo: ")


def test_files_of_others_are_left_alone(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(detected_run, "run_detection", lambda *_: pytest.fail("it was detected first"))
    (tmp_path / "demo" / "scene").mkdir(parents=True)
    (tmp_path / "demo" / "scene" / "tracks.jsonl").write_text("mine")
    assert "which no run of this program wrote" in demo("--frames", 1).error
    assert (tmp_path / "demo" / "scene" / "tracks.jsonl").read_text() == "mine"


class TestScene:
    @pytest.fixture(scope="class")
    def seen(self):
        """Pixels of each object on every fourth frame."""
        scene = demonstration_scene(Image.new("RGB", (90, 60), (30, 40, 90)))
        assert scene.object_count == 3
        return {index: scene.frame(index).masks.sum(axis=(1, 2)) for index in range(0, FRAMES, 4)}

    def test_all_objects_are_there_at_first_and_at_last(self, seen):
        assert seen[0].min() > 5000
        assert seen[116].min() > 5000

    def test_one_leaves_for_a_while_and_comes_back(self, seen):
        gone = [index for index, pixels in seen.items() if pixels[1] == 0]
        assert gone == list(range(gone[0], gone[-1] + 1, 4))
        assert len(gone) >= 6

    def test_one_is_hidden_by_another_in_part(self, seen):
        least = min(pixels[0] for pixels in seen.values())
        assert 0.3 < least / seen[0][0] < 0.6
        assert min(pixels[2] for pixels in seen.values()) > 0.8 * seen[0][2]

    def test_a_shorter_clip_is_the_beginning_of_the_whole_one(self):
        short, whole = demonstration_scene(None, frames=3), demonstration_scene(None)
        assert short.frames == 3
        np.testing.assert_array_equal(short.frame(2).frame_rgb, whole.frame(2).frame_rgb)

    def test_the_background_moves(self):
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8))
        scene = demonstration_scene(picture)
        first, last = (scene.frame(index).frame_rgb[:60, 250:350].astype(int) for index in (0, 110))
        assert np.abs(first - last).mean() > 20


def test_the_clip_shows_the_scene_and_its_truth_has_every_object(tmp_path):
    progress = []
    clip = draw_clip(tmp_path / "scene.mp4", 2, lambda done, total: progress.append((done, total)))
    assert progress == [(1, 2), (2, 2)]
    movie = read_movie(clip.path)
    assert movie.frames == len(clip.truth) == 2
    assert np.unique(clip.truth[1]).tolist() == [0, 1, 2, 3]


def test_the_real_prompt_lies_in_the_real_clip():
    path = package_file(*demo_clips.REAL_CLIP)
    movie = read_movie(path)
    assert REAL_PROMPT.frame + REAL_FRAMES <= movie.frames
    assert (REAL_PROMPT.box_xyxy_px <= np.array([*movie.size_wh] * 2)).all()
    assert package_file("skvideo", "no/such.mp4") is None
    assert package_file("no_such_package", "x") is None


class TestScore:
    TRUTH = np.array([[1, 1, 2, 0]], np.uint8)
    GONE = np.array([[0, 0, 2, 2]], np.uint8)

    def result(self, index, *, first=None, second=None):
        """A frame with the thing named first and the one named second."""
        rows = {phrase: mask for phrase, mask in zip(PHRASES, (first, second), strict=False) if mask is not None}
        masks = np.array(list(rows.values()), bool).reshape(len(rows), 1, 4)
        numbers = np.zeros(len(rows), np.float32)
        return FrameResult(index, 0.0, tuple(range(5, 5 + len(rows))), masks, numbers, numbers, labels=tuple(rows))

    def mean(self, *results):
        score = TruthScore([self.TRUTH, self.TRUTH, self.GONE])
        for result in results:
            score.add(result)
        return score.mean

    def test_nothing_compared(self):
        assert self.mean() is None
        assert self.mean(self.result(0, first=[1, 1, 0, 0], second=[0, 0, 1, 0])) is None

    def test_equal_half_and_missed(self):
        assert self.mean(self.result(1, first=[1, 1, 0, 0], second=[0, 0, 1, 0])) == 1
        assert self.mean(self.result(1, first=[1, 0, 0, 0], second=[0, 0, 1, 1])) == 0.5
        assert self.mean(self.result(1, first=[1, 1, 0, 0])) == 0.5

    def test_an_absent_object_counts_only_when_it_is_found(self):
        assert self.mean(self.result(2, first=[0, 0, 0, 0], second=[0, 0, 1, 1])) == 1
        assert self.mean(self.result(2, first=[1, 0, 0, 0], second=[0, 0, 1, 1])) == 0.5
