import threading
import weakref
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from clip_maker import write_clip
from fake_session import MODEL, FakeSession

from trt_track.engines.batch_times import BatchTimes
from trt_track.engines.session import Session
from trt_track.errors import BackendError, ModelError, PromptError, VideoError
from trt_track.runtime.prompts import Prompt
from trt_track.runtime.tracker import Tracker

FRAMES = 48


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=FRAMES)  # 96x64


@pytest.fixture
def session():
    return FakeSession()


@pytest.fixture
def video(session, clip):
    fits: Session = session
    with Tracker(fits, MODEL, max_objects=8) as tracker, tracker.video(clip) as video:
        yield video
    assert session.closed


def graphs(session, since=0):
    return [call.graph for call in session.calls[since:]]


def batches(session, graph="memory_attention", since=0):
    return [call.sizes["B"] for call in session.calls[since:] if call.graph == graph]


def assert_equal_results(first, second):
    assert [result.frame_index for result in first] == [result.frame_index for result in second]
    for one, other in zip(first, second, strict=True):
        assert (one.object_ids, one.time_s) == (other.object_ids, other.time_s)
        for name in ("masks", "ious", "presence", "logits"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_one_result_a_frame(video):
    video.add(object_id=7, box=(10, 10, 50, 40))
    results = list(video.propagate())
    assert [result.frame_index for result in results] == list(range(FRAMES))
    assert [result.time_s for result in results] == pytest.approx([index / 25 for index in range(FRAMES)])
    assert {result.object_ids for result in results} == {(7,)}
    assert results[3].masks.shape == (1, 64, 96)
    assert results[3].masks.dtype == np.bool_
    assert results[3].video_rgb_hwc is None
    assert len({result.ious.tobytes() for result in results}) > FRAMES // 2  # frames differ, so results do


def test_results_are_the_callers_own(video):
    video.add(object_id=1, points=[(30, 30)])
    kept, copies = [], []
    for result in video.propagate(max_frames=5):
        kept.append(result)
        copies.append(result.masks.copy())
    for result, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(result.masks, copy)


def test_frames_are_kept_when_asked_for(video):
    video.add(object_id=1, points=[(30, 30)])
    assert next(video.propagate(keep_video=True)).video_rgb_hwc.shape == (64, 96, 3)


def test_one_plus_four_graph_calls_a_frame_in_the_steady_state(video, session):
    for object_id in (1, 2, 3):
        video.add(object_id=object_id, points=[(10 * object_id, 30)])
    steady = []
    for result in video.propagate():
        if result.frame_index >= 1:
            steady.append(graphs(session))
        session.calls.clear()
    assert len(steady) == FRAMES - 1
    assert {tuple(calls) for calls in steady} == {
        ("image_encoder", "memory_attention", "mask_decoder", "memory_encoder", "mask_upscale"),
    }


def test_the_encoder_runs_once_a_frame_however_many_objects_and_prompts(video, session):
    for object_id in range(1, 9):
        video.add(object_id=object_id, frame=object_id // 3, points=[(10 * object_id, 30)])
        video.add(object_id=object_id, frame=20, points=[(5, 5)], labels=[0])
    list(video.propagate())
    assert Counter(graphs(session))["image_encoder"] == FRAMES


def test_objects_with_equally_many_memories_share_a_batch(video, session):
    for object_id, frame in ((1, 0), (2, 0), (3, 2)):
        video.add(object_id=object_id, frame=frame, points=[(10 * object_id, 30)])
    sizes = {}
    for result in video.propagate():
        sizes[result.frame_index] = sorted(batches(session))
        session.calls.clear()
    assert sizes[1] == [2]
    assert sizes[2] == [2]  # the third object starts
    assert sizes[3] == [1, 2]
    assert sizes[16] == [1, 2]  # 15 and 13 past frames with pointers
    assert sizes[18] == sizes[FRAMES - 1] == [3]


@pytest.mark.parametrize(("max_batch", "split"), [(1, [1] * 7), (3, [1, 3, 3]), (4, [3, 4]), (7, [7]), (16, [7])])
def test_a_batch_is_never_larger_than_the_session_wants(clip, max_batch, split):
    session = FakeSession(max_batch=max_batch)
    with Tracker(session, MODEL, max_objects=8) as tracker, tracker.video(clip) as video:
        for object_id in range(1, 8):
            video.add(object_id=object_id, points=[(10 * object_id, 30)])
        results = list(video.propagate(max_frames=4))
    assert sorted(batches(session)) == sorted(split * 3)
    assert {result.object_ids for result in results} == {tuple(range(1, 8))}


@pytest.mark.parametrize(
    ("milliseconds", "split", "widest"),
    [
        ({1: 1, 2: 1.2, 4: 3, 8: 9}, [3, 2, 2], 3),
        ({1: 1, 2: 1.5, 4: 2, 8: 3}, [7], 7),
        ({1: 1, 2: 3}, [1] * 7, 1),
        ({1: 1, 4: 2, 8: 9}, [4, 3], 4),
    ],
)
def test_batches_are_those_that_were_measured_to_be_quickest(clip, milliseconds, split, widest):
    session, times = FakeSession(max_batch=16), BatchTimes("fake", "0", "nothing", milliseconds)
    with Tracker(session, MODEL, max_objects=7, batch_times=times) as tracker, tracker.video(clip) as video:
        for object_id in range(1, 8):
            video.add(object_id=object_id, points=[(10 * object_id, 30)])
        results = list(video.propagate(max_frames=4))
        with tracker.steps((96, 64), keep_logits=False, together=False) as steps:
            assert steps.batch == widest  # no buffer is larger than what is used
    assert batches(session) == split * 3
    assert {result.object_ids for result in results} == {tuple(range(1, 8))}


def test_results_do_not_depend_on_the_batch(clip):
    runs = []
    for max_batch in (1, 3, 16):
        with Tracker(FakeSession(max_batch=max_batch), MODEL, max_objects=8) as tracker, tracker.video(clip) as video:
            for object_id in range(1, 6):
                video.add(object_id=object_id, frame=object_id % 2, points=[(10 * object_id, 30)])
            runs.append(list(video.propagate(max_frames=25)))
    assert_equal_results(runs[0], runs[1])
    assert_equal_results(runs[0], runs[2])


def test_memories_and_pointers_that_are_attended_to(video, session):
    video.add(object_id=1, points=[(30, 30)])
    list(video.propagate())
    attention = [call for call in session.calls if call.graph == "memory_attention"]
    assert [call.sizes["N"] for call in attention[:8]] == [1, 2, 3, 4, 5, 6, 7, 7]
    assert [call.sizes["P"] for call in attention[13:18]] == [14, 15, 16, 16, 16]
    assert attention[-1].inputs["age"].tolist() == [[0, 1, 2, 3, 4, 5, 6]]
    assert attention[-1].inputs["pointer_age"].tolist() == [[FRAMES - 1, *range(1, 16)]]
    assert {call.inputs["pointer_span"].item() for call in attention} == {15}


def test_propagate_again_gives_the_same(video):
    video.add(object_id=1, points=[(30, 30)])
    video.add(object_id=2, frame=3, box=(5, 5, 60, 40))
    video.add(object_id=1, frame=6, points=[(50, 10)], labels=[0])
    video.remove(object_id=2, frame=20)
    assert_equal_results(list(video.propagate()), list(video.propagate()))


def test_propagate_after_more_prompts_starts_afresh(video):
    video.add(object_id=1, frame=4, points=[(30, 30)])
    assert [result.frame_index for result in video.propagate(max_frames=2)] == [4, 5]
    video.add(object_id=2, frame=1, points=[(60, 30)])
    again = list(video.propagate(max_frames=5))
    assert [result.frame_index for result in again] == [1, 2, 3, 4, 5]
    assert [result.object_ids for result in again] == [(2,), (2,), (2,), (2, 1), (2, 1)]


@pytest.mark.parametrize(("max_frames", "expected"), [(None, range(20, -1, -1)), (3, range(20, 17, -1)), (100, range(20, -1, -1))])
def test_reverse(video, max_frames, expected):
    video.add(object_id=1, frame=20, points=[(30, 30)])
    video.add(object_id=2, frame=10, points=[(60, 30)])
    results = list(video.propagate(reverse=True, max_frames=max_frames))
    assert [result.frame_index for result in results] == list(expected)
    assert all(result.object_ids == ((1,) if result.frame_index > 10 else (1, 2)) for result in results)


def test_nothing_is_allocated_once_the_first_frame_was_encoded(video, session):
    mask = np.zeros((64, 96), np.uint8)
    mask[10:40, 20:60] = 255
    for object_id in (1, 2, 3):
        video.add(object_id=object_id, frame=object_id, points=[(10 * object_id, 30)])
        video.add(object_id=object_id, frame=20 + object_id, points=[(30, 30)] * (object_id * 5))
        video.add(object_id=object_id + 3, frame=5 * object_id, mask=mask)
    running = video.propagate()
    next(running)
    allocations = session.allocations
    assert len(list(running)) == FRAMES - 2
    assert session.allocations == allocations


class RememberingSession(FakeSession):
    """Knows which of its arrays somebody still holds."""

    def empty(self, shape, dtype):
        array = super().empty(shape, dtype)
        self.made = [*getattr(self, "made", ()), weakref.ref(array)]
        return array

    @property
    def held_bytes(self):
        return sum(array().nbytes for array in self.made if array() is not None)


def test_arrays_of_a_video_go_when_one_of_another_size_comes():
    session, held = RememberingSession(), []
    with Tracker(session, MODEL) as tracker:
        for number in (9, *range(9), 9):
            with tracker.steps((20 + number, 15), keep_logits=False, together=False) as steps:
                with tracker.steps((20 + number, 15), keep_logits=False, together=True) as others:
                    assert others is not steps
                held.append(session.held_bytes)
            del steps, others
        with tracker.steps((29, 15), keep_logits=False, together=False) as again:
            assert session.held_bytes == held[-1]  # one of the same size has its buffers made already
    assert held[0] == held[-1] == max(held) > 0
    del again
    assert session.held_bytes == 0


def test_buffers_that_are_in_use_stay_while_a_video_of_another_size_is_tracked():
    session = RememberingSession()
    with Tracker(session, MODEL) as tracker, tracker.steps((20, 15), keep_logits=False, together=False) as steps:
        with tracker.steps((30, 15), keep_logits=False, together=False):
            assert steps.conditioned.shape[1:] == (16, 4, 4)
        with tracker.steps((40, 15), keep_logits=False, together=False):
            assert all(slot.image["embed"].size for slot in steps.slots)


class TestLatePrompts:
    def test_a_new_object_on_the_frame_that_was_just_yielded(self, video, session):
        video.add(object_id=1, points=[(30, 30)])
        running = video.propagate(max_frames=4)
        first = [next(running), next(running)]
        before = len(session.calls)
        video.add(object_id=2, frame=1, points=[(60, 30)])
        rest = list(running)
        assert [result.frame_index for result in (*first, *rest)] == [0, 1, 1, 2, 3]
        assert [result.object_ids for result in (*first, *rest)] == [(1,), (1,), (1, 2), (1, 2), (1, 2)]
        assert "image_encoder" not in graphs(session, before)[:3]  # the frame is not encoded again
        np.testing.assert_array_equal(rest[0].masks[0], first[1].masks[0])

    def test_are_as_good_as_early_ones(self, clip):
        runs = []
        for late in (False, True):
            with Tracker(FakeSession(), MODEL) as tracker, tracker.video(clip) as video:
                video.add(object_id=1, points=[(30, 30)])
                results = {}
                if not late:
                    video.add(object_id=1, frame=5, points=[(50, 10)], labels=[0])
                    video.add(object_id=2, frame=5, points=[(60, 30)])
                for result in video.propagate(max_frames=12):
                    if late and result.frame_index == 5 and 5 not in results:
                        video.add(object_id=1, frame=5, points=[(50, 10)], labels=[0])
                        video.add(object_id=2, frame=5, points=[(60, 30)])
                    results[result.frame_index] = result
            runs.append(list(results.values()))
        assert_equal_results(*runs)

    def test_for_a_frame_ahead_are_taken_there(self, video):
        video.add(object_id=1, points=[(30, 30)])
        running = video.propagate(max_frames=4)
        next(running)
        video.add(object_id=2, frame=2, points=[(60, 30)])
        assert [result.object_ids for result in running] == [(1,), (1, 2), (1, 2)]

    def test_several_times_on_one_frame(self, video):
        video.add(object_id=1, points=[(30, 30)])
        running = video.propagate(max_frames=2)
        seen = [next(running)]
        for x in (40, 50):
            video.add(object_id=1, points=[(x, 30)])
            seen.append(next(running))
        assert [result.frame_index for result in (*seen, *running)] == [0, 0, 0, 1]
        assert len({result.ious.tobytes() for result in seen}) == 3

    @pytest.mark.parametrize("reverse", [False, True])
    def test_for_a_frame_that_has_passed_are_refused(self, video, reverse):
        video.add(object_id=1, frame=20, points=[(30, 30)])
        running = video.propagate(max_frames=5, reverse=reverse)
        next(running)
        at = next(running).frame_index
        passed = at + 1 if reverse else at - 1
        with pytest.raises(PromptError, match=rf"frame {passed} lies behind: the pass is at frame {at}"):
            video.add(object_id=2, frame=passed, points=[(60, 30)])
        assert len(video.prompts) == 1
        assert {result.object_ids for result in running} == {(1,)}

    def test_removal_takes_the_object_out_of_the_frame(self, video):
        for object_id in (1, 2):
            video.add(object_id=object_id, points=[(30 * object_id, 30)])
        running = video.propagate(max_frames=3)
        next(running)
        next(running)
        video.remove(object_id=1, frame=1)
        assert [(result.frame_index, result.object_ids) for result in running] == [(1, (2,)), (2, (2,))]

    def test_that_contradict_others_are_refused_and_change_nothing(self, video):
        video.add(object_id=1, points=[(30, 30)])
        running = video.propagate(max_frames=2)
        next(running)
        with pytest.raises(PromptError, match="only negative"):
            video.add(object_id=2, points=[(30, 30)], labels=[0])
        assert [result.frame_index for result in running] == [1]


class TestRemoval:
    def test_object_is_in_no_result_from_its_frame_on(self, video, session):
        for object_id in (1, 2):
            video.add(object_id=object_id, points=[(30 * object_id, 30)])
        video.remove(object_id=1, frame=5)
        ids = [result.object_ids for result in video.propagate(max_frames=8)]
        assert ids == [(1, 2)] * 5 + [(2,)] * 3
        assert batches(session)[-3:] == [1, 1, 1]

    def test_the_others_do_not_notice(self, video):
        video.add(object_id=2, points=[(60, 30)])
        alone = [result.masks[0] for result in video.propagate(max_frames=12)]
        video.add(object_id=1, points=[(30, 30)])
        video.remove(object_id=1, frame=5)
        together = [result.masks[result.object_ids.index(2)] for result in video.propagate(max_frames=12)]
        np.testing.assert_array_equal(together, alone)

    def test_of_all_objects_leaves_empty_results(self, video):
        video.add(object_id=1, points=[(30, 30)])
        video.remove(object_id=1, frame=2)
        results = list(video.propagate(max_frames=4))
        assert [result.object_ids for result in results] == [(1,), (1,), (), ()]
        assert results[3].masks.shape == (0, 64, 96)

    def test_frames_without_objects_are_not_encoded(self, video, session):
        video.add(object_id=1, points=[(30, 30)])
        video.remove(object_id=1, frame=2)
        video.add(object_id=2, frame=5, points=[(60, 30)])
        encoded = {}
        for result in video.propagate(max_frames=8):
            encoded[result.frame_index] = graphs(session).count("image_encoder")
            session.calls.clear()
        assert encoded == {0: 1, 1: 1, 2: 0, 3: 0, 4: 0, 5: 1, 6: 1, 7: 1}

    def test_an_object_may_start_late_on_a_frame_without_objects(self, clip):
        runs = []
        for late in (False, True):
            with Tracker(FakeSession(), MODEL) as tracker, tracker.video(clip) as video:
                video.add(object_id=1, points=[(30, 30)])
                video.remove(object_id=1, frame=2)
                results, starts = {}, {"object_id": 2, "frame": 4, "points": [(60, 30)]}
                if not late:
                    video.add(**starts)
                for result in video.propagate(max_frames=8):
                    if late and result.frame_index == 4 and not result.object_ids:
                        video.add(**starts)
                    results[result.frame_index] = result
            runs.append(list(results.values()))
        assert_equal_results(*runs)

    def test_makes_room_on_its_own_frame(self, clip):
        with Tracker(FakeSession(), MODEL, max_objects=1) as tracker, tracker.video(clip) as video:
            video.add(object_id=2, frame=3, points=[(60, 30)])
            video.add(object_id=1, points=[(30, 30)])
            video.remove(object_id=1, frame=3)
            assert [result.object_ids for result in video.propagate(max_frames=5)] == [(1,)] * 3 + [(2,)] * 2


class TestTooManyObjects:
    @pytest.fixture
    def video(self, session, clip):
        with Tracker(session, MODEL, max_objects=2) as tracker, tracker.video(clip) as video:
            yield video

    def test_are_refused_before_the_first_frame(self, video, session):
        for object_id in (1, 2, 3):
            video.add(object_id=object_id, frame=10 * object_id, points=[(30, 30)])
        with pytest.raises(PromptError, match="frame 30: more than 2 objects at once: raise --max-objects"):
            next(video.propagate())
        assert session.calls == []

    def test_are_counted_in_the_direction_of_tracking(self, video):
        for object_id in (1, 2, 3):
            video.add(object_id=object_id, frame=10 * object_id, points=[(30, 30)])
        video.remove(object_id=3, frame=15)
        assert len(list(video.propagate(reverse=True))) == 31

    def test_are_refused_while_tracking_runs(self, video):
        for object_id in (1, 2):
            video.add(object_id=object_id, points=[(30, 30)])
        running = video.propagate(max_frames=3)
        next(running)
        with pytest.raises(PromptError, match="more than 2 objects at once"):
            video.add(object_id=3, frame=1, points=[(30, 30)])
        assert [result.object_ids for result in running] == [(1, 2)] * 2


class TestPromptKinds:
    def test_mask_is_its_own_answer(self, video, session):
        mask = np.zeros((64, 96), np.uint8)
        mask[10:40, 20:60] = 255
        video.add(object_id=1, mask=mask)
        assert next(video.propagate()).ious[0] == 1
        assert graphs(session) == ["image_encoder", "mask_prompt", "mask_decoder", "mask_upscale", "memory_encoder"]

    def test_correction_sees_the_tracked_mask(self, video, session):
        video.add(object_id=1, points=[(30, 30)])
        video.add(object_id=1, frame=2, points=[(50, 10)], labels=[0])
        for result in video.propagate(max_frames=3):
            if result.frame_index == 1:
                session.calls.clear()
        decoded = [call for call in session.calls if call.graph == "mask_decoder"]
        assert [call.inputs["has_mask"].item() for call in decoded] == [False, True]
        assert [call.inputs["labels"].tolist() for call in decoded] == [[[-1]], [[0]]]

    @pytest.mark.parametrize(("clicks", "multimask"), [(1, True), (2, False)])
    def test_one_click_takes_the_best_of_three_masks(self, video, session, clicks, multimask):
        video.add(object_id=1, points=[(30, 30)] * clicks)
        next(video.propagate())
        assert session.calls[1].inputs["multimask"].tolist() == [multimask]

    def test_box_comes_before_clicks_and_in_model_pixels(self, video, session):
        video.add(object_id=1, points=[(48, 32)], box=(0, 0, 96, 64))
        next(video.propagate())
        assert session.calls[1].inputs["points"].tolist() == [[[0, 0], [64, 64], [32, 32]]]
        assert session.calls[1].inputs["labels"].tolist() == [[2, 3, 1]]


@pytest.mark.parametrize("leave", ["close", "drop", "raise"])
def test_no_thread_is_left_when_the_generator_ends_early(video, leave):
    video.add(object_id=1, points=[(30, 30)])
    running = video.propagate()
    next(running)
    assert threads()
    if leave == "close":
        running.close()
    elif leave == "drop":
        del running
    else:
        with pytest.raises(ZeroDivisionError):
            running.throw(ZeroDivisionError)
    assert threads() == []
    assert len(list(video.propagate(max_frames=2))) == 2


def test_closing_the_video_ends_its_thread(session, clip):
    with Tracker(session, MODEL) as tracker:
        with tracker.video(clip) as video:
            video.add(object_id=1, points=[(30, 30)])
            running = video.propagate()
            next(running)
        assert threads() == []


def test_propagate_without_a_prompt_is_refused(video):
    with pytest.raises(PromptError, match="nothing to track"):
        next(video.propagate())


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("trt-track")]


def test_logits_come_only_when_asked_for(video):
    video.add(object_id=1, box=(10, 10, 50, 40))
    video.add(object_id=2, box=(20, 10, 60, 40), frame=3)
    assert all(result.logits is None for result in video.propagate())
    kept = list(video.propagate(keep_logits=True))
    assert [result.logits.shape[:2] for result in kept] == [(len(result.object_ids), 1) for result in kept]


def test_a_result_is_not_changed_by_later_frames(video):
    for object_id in (1, 2, 3):
        video.add(object_id=object_id, box=(10, 10, 50, 40))
    seen, copies = [], []
    for result in video.propagate(keep_logits=True):
        seen.append(result)
        copies.append((result.masks.copy(), result.logits.copy(), result.ious.copy()))
    for result, (masks, logits, ious) in zip(seen, copies, strict=True):
        np.testing.assert_array_equal(result.masks, masks)
        np.testing.assert_array_equal(result.logits, logits)
        np.testing.assert_array_equal(result.ious, ious)


@pytest.mark.parametrize(("most", "fits"), [(None, True), (96, True), (95, False)])
def test_a_video_larger_than_the_engines_is_refused_before_it_is_tracked(clip, most, fits):
    session = FakeSession(max_video_side=most)
    with Tracker(session, MODEL) as tracker:
        if fits:
            tracker.video(clip).close()
            return
        with pytest.raises(VideoError, match=r"clip has 96x64 pixels, the engines were built for up to 95 a side: scale it down"):
            tracker.video(clip)
    assert session.calls == []
    assert threads() == []


def test_engines_for_fewer_objects_set_the_limit_and_refuse_more():
    with Tracker(FakeSession(max_objects=4), MODEL) as tracker:
        assert tracker.limits.objects == 4
    with pytest.raises(BackendError, match="--max-objects 5"):
        Tracker(FakeSession(max_objects=4), MODEL, max_objects=5)


def test_a_correction_can_be_asked_to_condition(clip):
    attended = []
    for conditions in (False, True):
        session = FakeSession()
        with Tracker(session, MODEL) as tracker, tracker.video(clip) as video:
            corners = np.array([10, 10, 50, 40], np.float32)
            video.add_prompts([Prompt(frame, 1, box_xyxy_px=corners, conditions=conditions) for frame in (0, 10, 20)])
            list(video.propagate())
        attended.append(max(call.sizes["N"] for call in session.calls if call.graph == "memory_attention"))
    assert attended == [7, 9]


def test_prompted_frames_that_are_kept_can_be_fewer(clip):
    model = replace(MODEL, corrections_condition=True)
    attended = {}
    for most in (None, 1, 3):
        session = FakeSession(model=model)
        with Tracker(session, model, max_conditioning=most) as tracker, tracker.video(clip) as video:
            assert tracker.max_conditioning == (most or 4)
            for frame in range(0, 48, 8):
                video.add(object_id=1, frame=frame, points=[(30, 30)])
            list(video.propagate())
        attended[most] = max(call.sizes["N"] for call in session.calls if call.graph == "memory_attention")
    assert attended == {None: 10, 1: 7, 3: 9}
    with pytest.raises(ModelError, match="5 conditioning frames of each object are not possible"):
        Tracker(FakeSession(), MODEL, max_conditioning=5)


def test_a_later_pass_allocates_nothing_new(clip):
    session = FakeSession()
    with Tracker(session, MODEL) as tracker, tracker.video(clip) as video:
        video.add(object_id=1, box=(10, 10, 50, 40))
        first = list(video.propagate())
        allocated = session.allocations
        assert_equal_results(first, list(video.propagate()))
        assert session.allocations == allocated
