"""The first stage: which frames are looked at, in which batches, and a file that is finished only when all is done."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field

import numpy as np
import pytest
from clip_maker import write_clip

from trt_track.engines.host_memory import MemoryState
from trt_track.errors import EngineRunError, PromptError
from trt_track.runtime.batch_size import BatchSize, fitting_frames
from trt_track.runtime.detection_stage import (
    DetectionSchedule,
    clip_cuts,
    detect_clip,
    detection_frames,
    run_detection_stage,
    scene_cuts,
    stage_header,
)
from trt_track.runtime.detections import Detection, DetectionWriter, Detector, part_of, read_detections
from trt_track.runtime.held_clip import HeldClip
from trt_track.runtime.video import open_video

FRAMES = 48
MIB, GIB = 1 << 20, 1 << 30


@dataclass
class BrightnessDetector:
    """Finds one box a frame, whose score tells the frame's red: `clip_maker.picture` counts there."""

    max_batch: int = 4
    min_batch: int = 1
    frame_bytes: int = 10 * MIB
    available: int = 64 * GIB
    fails_at: int | None = None
    model: str = "brightness"
    device: str = "CPU"
    batches: list[int] = field(default_factory=list)
    held: int = GIB
    peak: int = 0

    def detect(self, frames_rgb):
        self.batches.append(len(frames_rgb))
        self.peak = max(self.peak, self.held + len(frames_rgb) * self.frame_bytes)
        if self.fails_at is not None and len(self.batches) > self.fails_at:
            raise EngineRunError("out of memory")
        assert all(frame.shape == (64, 96, 3) and frame.dtype == np.uint8 for frame in frames_rgb)
        return [(Detection(np.array([1, 2, 30, 40], np.float32), float(frame[30:, :, 0].mean()) / 255, "ramp"),) for frame in frames_rgb]

    def memory(self):
        return None if self.available < 0 else MemoryState(self.held, self.peak, self.available)

    def describe(self):
        return {"model": self.model}

    def close(self):
        pass


def found_lines(path):
    """All but the last line, which tells the memory that it took."""
    return path.read_bytes().splitlines()[:-1]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=FRAMES)  # 96x64


@pytest.fixture
def source(clip):
    with open_video(clip) as source:
        yield source
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("trt-track")] == []


@pytest.mark.parametrize(
    ("count", "every", "cuts", "expected"),
    [
        (0, None, (), ()),
        (0, 10, (3,), ()),
        (1, 10, (), (0,)),
        (25, None, (), (0,)),
        (25, 10, (), (0, 10, 20)),
        (20, 10, (), (0, 10)),
        (5, 1, (), (0, 1, 2, 3, 4)),
        (5, 99, (), (0,)),
        (25, None, (24, 7, 7, 25, 0), (0, 7, 24)),
        (25, 10, (9, 10, 11), (0, 9, 10, 11, 20)),
    ],
)
def test_frames_to_look_at(count, every, cuts, expected):
    assert detection_frames(count, every, cuts) == expected


@pytest.mark.parametrize("every", [0, -1])
def test_an_impossible_step_is_refused(source, every):
    with pytest.raises(PromptError, match="give 1 or more"):
        DetectionSchedule(every).frames(source)


class TestCuts:
    def pictures(self, *scenes, size=32):
        rng = np.random.default_rng(0)
        for colour, count in scenes:
            for _ in range(count):
                yield np.clip(np.array(colour) + rng.normal(0, 12, (size, size, 3)), 0, 255).astype(np.uint8)

    def test_nothing_and_one_picture_have_none(self):
        assert list(scene_cuts([])) == list(scene_cuts(self.pictures(((90, 90, 90), 1)))) == []

    def test_are_where_the_colours_change_at_once(self):
        dark, red, blue = (40, 50, 40), (180, 60, 50), (60, 80, 190)
        assert list(scene_cuts(self.pictures((dark, 5), (red, 1), (blue, 7), (dark, 2)))) == [5, 6, 13]

    def test_a_slow_change_is_none(self):
        assert list(scene_cuts(self.pictures(*[((40 + 4 * i, 90, 90), 1) for i in range(40)]))) == []

    def test_of_a_film(self, bikes):
        with open_video(bikes) as film:
            assert clip_cuts(film) == (30, 76, 137, 187, 242)

    def test_of_a_clip_without_one(self, source):
        assert clip_cuts(source) == ()
        assert DetectionSchedule(every=20, at_cuts=True).frames(source) == (0, 20, 40)

    def test_are_looked_at_when_asked_for(self):
        held = HeldClip.of_pictures(self.pictures(((40, 50, 40), 7), ((180, 60, 50), 5), size=64), size=64)
        assert DetectionSchedule(at_cuts=True).frames(held) == (0, 7)
        assert DetectionSchedule(every=5, at_cuts=True).frames(held) == (0, 5, 7, 10)
        assert DetectionSchedule(every=5, at_cuts=True, max_frames=7).frames(held) == (0, 5)
        assert DetectionSchedule(every=5, max_frames=99).frames(held) == (0, 5, 10)


class TestDetecting:
    def detect(self, source, path, detector, frames):
        fits: Detector = detector
        told = []
        with DetectionWriter(path, {}) as writer:
            detect_clip(source, fits, frames, writer, on_progress=lambda done, total: told.append((done, total)))
        return read_detections(path).frames, told

    @pytest.mark.parametrize("frames", [(), (0,), (0, 10, 20, 30, 40), (47,), (3, 4, 5, 46), tuple(range(FRAMES)), (20, 0, 20, 10)])
    @pytest.mark.parametrize("batch", [1, 4, 100])
    def test_finds_the_right_pictures_in_order_in_full_batches(self, source, tmp_path, frames, batch):
        detector = BrightnessDetector(batch, min_batch=batch)
        found, told = self.detect(source, tmp_path / "found.jsonl", detector, frames)
        wanted = sorted(set(frames))
        assert [one.frame for one in found] == wanted
        assert [one.found[0].score * 255 for one in found] == pytest.approx([frame * 2 for frame in wanted], abs=1.9)
        assert detector.batches == [batch] * (len(wanted) // batch) + ([len(wanted) % batch] if len(wanted) % batch else [])
        assert told == [(min(done + batch, len(wanted)), len(wanted)) for done in range(0, len(wanted), batch)]

    @pytest.mark.parametrize(
        ("available", "batches"),
        [(64 * GIB, [1, 16, 16, 15]), (100 * MIB, [1, 5, 5, 5, 5, 5, 5, 5, 5, 5, 2]), (MIB, [1] * 48), (-1, [1] * 48)],
    )
    def test_batches_fit_the_memory_that_is_free(self, source, tmp_path, available, batches):
        whole = tmp_path / "all_at_once.jsonl"
        self.detect(source, whole, BrightnessDetector(FRAMES, min_batch=FRAMES), range(FRAMES))
        detector = BrightnessDetector(16, available=available)
        self.detect(source, tmp_path / "found.jsonl", detector, range(FRAMES))
        assert detector.batches == batches
        assert found_lines(tmp_path / "found.jsonl") == found_lines(whole)

    def test_reads_no_further_than_it_must(self, source, tmp_path):
        asked = []

        class Watched:
            info, damage = source.info, None

            def frames(self, **options):
                asked.append(options)
                return source.frames(**options)

            def close(self):
                pass

        self.detect(Watched(), tmp_path / "found.jsonl", BrightnessDetector(), (7, 20))
        assert [(one["start"], one["stop"], set(one["only"])) for one in asked] == [(7, 21, {7, 20})]

    def test_a_clip_that_ends_early_gives_what_there_is(self, clip, tmp_path):
        whole = clip.read_bytes()
        cut = tmp_path / "cut.mkv"
        write_clip(cut, frames=FRAMES)
        cut.write_bytes(cut.read_bytes()[: len(whole) // 2])
        with open_video(cut) as source:
            found, _ = self.detect(source, tmp_path / "found.jsonl", BrightnessDetector(), detection_frames(source.info.frame_count, 5))
            last = len(list(source.frames(size=32)))
        assert 0 < last < FRAMES
        assert [one.frame for one in found] == list(range(0, last, 5))

    def test_what_is_interrupted_does_not_look_finished(self, source, tmp_path):
        path = tmp_path / "found.jsonl"
        with DetectionWriter(path, {}) as writer, pytest.raises(EngineRunError):
            detect_clip(source, BrightnessDetector(2, min_batch=2, fails_at=2), range(FRAMES), writer)
        assert not path.exists()
        assert len(part_of(path).read_text().splitlines()) == 1 + 4
        for place in (path, part_of(path)):
            with pytest.raises(PromptError, match="interrupted"):
                read_detections(place)

    def test_what_is_interrupted_before_a_frame_was_looked_at_leaves_nothing(self, source, tmp_path):
        with DetectionWriter(tmp_path / "found.jsonl", {}) as writer, pytest.raises(EngineRunError):
            detect_clip(source, BrightnessDetector(fails_at=0), (0,), writer)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("device", "available", "gpu"), [("CPU", GIB, None), ("RTX 4060", GIB, GIB + 10 * MIB), ("RTX 4060", -1, None)]
    )
    def test_tells_the_memory_that_it_took(self, source, tmp_path, device, available, gpu):
        path = tmp_path / "found.jsonl"
        self.detect(source, path, BrightnessDetector(max_batch=1, device=device, available=available), (0, 20))
        peak = read_detections(path).peak
        assert peak.gpu == gpu
        assert peak.resident > 50 * MIB


class TestBatchSize:
    @pytest.mark.parametrize(
        ("held", "peak", "available", "fewest", "most", "frames"),
        [
            (100, 300, 2000, 1, 16, 5),  # half of 2000 for 200 each
            (100, 300, 399, 1, 16, 1),  # not even one more has room
            (100, 300, 10**6, 1, 16, 16),
            (100, 300, 10**6, 1, 1, 1),
            (100, 1300, 4000, 3, 16, 5),  # 1200 of three frames
            (100, 1300, 400, 3, 16, 3),
            (300, 300, 64, 1, 16, 16),  # nothing grew: a frame counts for a MiB
            (300, 200, 4, 1, 16, 2),
        ],
    )
    def test_is_what_half_of_the_free_memory_has_room_for(self, held, peak, available, fewest, most, frames):
        before, after = (MemoryState(held * MIB, highest * MIB, available * MIB) for highest in (held, peak))
        assert fitting_frames(before, after, fewest, most) == frames

    def test_is_measured_once(self):
        states = iter([MemoryState(0, 0, GIB), MemoryState(128 * MIB, 128 * MIB, GIB)])
        size = BatchSize(1, 16, lambda: next(states))
        for _ in range(3):
            with size.watch():
                pass
            assert size.frames == 4

    def test_is_not_measured_where_there_is_no_choice(self):
        size = BatchSize(3, 3, lambda: pytest.fail("asked"))
        with size.watch():
            pass
        assert size.frames == 3

    def test_work_that_fails_is_not_measured(self):
        size = BatchSize(1, 16, lambda: MemoryState(0, 0, GIB))
        with pytest.raises(EngineRunError), size.watch():
            raise EngineRunError("out of memory")
        assert size.frames == 1


class TestStage:
    def run(self, clip, path, detector, schedule):
        with open_video(clip) as source:
            return run_detection_stage(source, detector, schedule, path)

    def test_is_done_once_and_then_reused(self, clip, tmp_path):
        path, detector = tmp_path / "found.jsonl", BrightnessDetector()
        first, there = self.run(clip, path, detector, DetectionSchedule(every=10))
        assert not there
        assert [one.frame for one in first.frames] == [0, 10, 20, 30, 40]
        again, there = self.run(clip, path, detector, DetectionSchedule(every=10))
        assert there
        assert detector.batches == [1, 4]
        assert [one.frame for one in again.frames] == [one.frame for one in first.frames]

    def test_is_done_anew_for_another_detector_schedule_or_clip(self, clip, tmp_path):
        path, detector = tmp_path / "found.jsonl", BrightnessDetector()
        other = write_clip(tmp_path / "clip.mp4", frames=20)
        self.run(clip, path, detector, DetectionSchedule(every=10))
        for another in (
            (clip, BrightnessDetector(model="other"), DetectionSchedule(every=10)),
            (clip, detector, DetectionSchedule(every=20)),
            (other, detector, DetectionSchedule(every=20)),
        ):
            assert self.run(another[0], path, *another[1:])[1] is False
            assert self.run(another[0], path, *another[1:])[1] is True

    def test_that_was_interrupted_is_done_anew(self, clip, tmp_path):
        path = tmp_path / "found.jsonl"
        with pytest.raises(EngineRunError):
            self.run(clip, path, BrightnessDetector(fails_at=1), DetectionSchedule(every=5))
        found, there = self.run(clip, path, BrightnessDetector(), DetectionSchedule(every=5))
        assert not there
        assert len(found.frames) == 10

    def test_that_was_interrupted_leaves_a_finished_one_as_it_is(self, clip, tmp_path):
        path = tmp_path / "found.jsonl"
        self.run(clip, path, BrightnessDetector(), DetectionSchedule(every=10))
        before = path.read_bytes()
        with pytest.raises(EngineRunError):
            self.run(clip, path, BrightnessDetector(fails_at=1), DetectionSchedule(every=5))
        assert path.read_bytes() == before
        assert self.run(clip, path, BrightnessDetector(), DetectionSchedule(every=10))[1] is True

    def test_header_tells_what_decides(self, clip, source):
        header = json.loads(json.dumps(stage_header(source.info, DetectionSchedule(every=7), BrightnessDetector().describe())))
        assert header["clip"] == {
            "name": "clip.mp4",
            "width": 96,
            "height": 64,
            "frames": FRAMES,
            "bytes": clip.stat().st_size,
            "changed_ns": clip.stat().st_mtime_ns,
        }
        assert header["schedule"] == {"every": 7, "at_cuts": False, "max_frames": None}
        assert header["detector"] == {"model": "brightness"}

    def test_a_folder_of_frames_is_known_by_its_files(self, tmp_path):
        from PIL import Image

        folder = tmp_path / "frames"
        folder.mkdir()
        for index in range(3):
            Image.new("RGB", (96, 64), (40 * index, 0, 0)).save(folder / f"{index}.png")
        path, detector = folder / "found.jsonl", BrightnessDetector()  # which is no frame
        assert self.run(folder, path, detector, DetectionSchedule(every=2))[1] is False
        assert self.run(folder, path, detector, DetectionSchedule(every=2))[1] is True
        Image.new("RGB", (96, 64), (1, 2, 3)).save(folder / "1.png")
        assert self.run(folder, path, detector, DetectionSchedule(every=2))[1] is False

    def test_frames_from_memory_have_no_file(self):
        held = HeldClip.of_pictures([np.zeros((64, 96, 3), np.uint8)], size=32, name="drawn")
        assert stage_header(held.info, DetectionSchedule(), {})["clip"]["name"] == "drawn"
