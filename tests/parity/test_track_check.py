"""Whole tracks of the small model against upstream's predictor, and wrong books that must show."""

from dataclasses import replace

import pytest

from trt_track.engines.backends import open_session
from trt_track.engines.bundle import Bundle
from trt_track.export.random_weights import random_checkpoint
from trt_track.export.reference import track_upstream
from trt_track.export.upstream import build_model
from trt_track.parity.cases import MIN_FRAMES, all_cases
from trt_track.parity.thresholds import Thresholds
from trt_track.parity.track_check import check_case, track
from trt_track.runtime.bank import MemoryBank
from trt_track.runtime.held_clip import HeldClip
from trt_track.runtime.tracker import Tracker

FRAMES = 26
CASES = [case.name for case in all_cases(FRAMES, 176, 144)]


@pytest.fixture(scope="module")
def predictor(small_config):
    model = build_model(small_config)
    random_checkpoint(model, 0)
    return model


@pytest.fixture(scope="module")
def clip(carphone):
    return HeldClip.read(carphone, size=128, frames=FRAMES)


@pytest.fixture(scope="module")
def tracker(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    with Tracker(open_session(bundle, "onnxruntime-cpu"), bundle.model) as tracker:
        yield tracker


@pytest.fixture
def check(tracker, predictor, clip):
    def run(name):
        case = next(case for case in all_cases(FRAMES, clip.info.width, clip.info.height) if case.name == name)
        return check_case(tracker, predictor, clip, case, limits=Thresholds.read().track("fp32", ()))

    return run


def failures(rows):
    return [row for row in rows if not row.passed]


@pytest.mark.filterwarnings("ignore")  # upstream's warnings
@pytest.mark.parametrize("name", CASES)
def test_every_frame_is_upstreams(check, name):
    done = check(name)
    frames = sorted({row.frame for row in done.rows})
    assert frames == list(range(FRAMES if name == "one click" else MIN_FRAMES))
    assert sum(row.pixels > 0 for row in done.rows) > len(done.rows) // 2  # empty masks would prove nothing
    assert failures(done.rows) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_both_take_the_same_candidates(tracker, predictor, clip, name):
    case = next(case for case in all_cases(MIN_FRAMES, clip.info.width, clip.info.height) if case.name == name)
    clip = clip.first(MIN_FRAMES)
    upstream = track_upstream(
        predictor, [frame.model_rgb_hwc for frame in clip.held], case.prompts, video_wh=(176, 144), reverse=case.reverse
    )
    theirs, ours = (
        {(frame, number): found.chosen for frame, objects in tracked.items() for number, found in objects.items()}
        for tracked in (upstream, track(tracker, clip, case))
    )
    assert theirs == ours
    assert set(ours.values()) <= {0, 1, 2, 3}


def oldest_and_newest_swapped(recall):
    return replace(recall, ages=[*recall.ages[:1], *recall.ages[:0:-1]])


def without_last_pointer(recall):
    return replace(recall, pointers=recall.pointers[:-1], pointer_ages=recall.pointer_ages[:-1]) if len(recall.pointers) > 1 else recall


def without_oldest_memory(recall):
    return replace(recall, pages=recall.pages[:-1], ages=recall.ages[:-1]) if len(recall.pages) > 1 else recall


def pointers_one_frame_older(recall):
    return replace(recall, pointer_ages=[age + 1 for age in recall.pointer_ages])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mistake", [oldest_and_newest_swapped, without_last_pointer, without_oldest_memory, pointers_one_frame_older])
def test_a_mistake_in_the_books_shows(check, monkeypatch, mistake):
    recall = MemoryBank.recall
    monkeypatch.setattr(MemoryBank, "recall", lambda self, object_id, frame: mistake(recall(self, object_id, frame)))
    rows = check("box").rows
    assert rows[0].passed  # the prompted frame attends to nothing
    assert len(failures(rows)) > len(rows) // 2


@pytest.mark.filterwarnings("ignore")
def test_another_models_weights_show(tracker, small_config, clip):
    other = build_model(small_config)
    random_checkpoint(other, 1)
    case = all_cases(MIN_FRAMES, clip.info.width, clip.info.height)[1]
    assert not any(row.passed for row in check_case(tracker, other, clip, case, limits=Thresholds.read().track("fp32", ())).rows)


def test_track_has_every_object_on_every_frame(tracker, clip):
    case = next(case for case in all_cases(FRAMES, clip.info.width, clip.info.height) if case.name == "object removed on frame 6")
    tracked = track(tracker, clip.first(8), case)
    assert {frame: sorted(objects) for frame, objects in tracked.items()} == {frame: [1, 2] if frame < 6 else [2] for frame in range(8)}
    assert tracked[0][1].logits.shape == (1, 32, 32)
    assert tracked[0][1].mask_hw.shape == (144, 176)
