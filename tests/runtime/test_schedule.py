"""The prompts of one pass: taken in one by one they are what they are together, however many lie behind."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from fake_session import MODEL, FakeSession
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_track.errors import PromptError
from trt_track.runtime import prompt_rules, schedule
from trt_track.runtime.frames import Frame, VideoInfo
from trt_track.runtime.held_clip import HeldClip
from trt_track.runtime.prompts import Prompt, check_prompts, merge_prompts
from trt_track.runtime.schedule import Schedule
from trt_track.runtime.tracker import Tracker, Video

FRAMES = 6
CLIP = {"width": 64, "height": 64, "frame_count": FRAMES}


def click(frame, object_id, label=1):
    return Prompt(frame, object_id, np.array([[9, 9]], np.float32), np.array([label], np.int32))


def removal(frame, object_id):
    return Prompt(frame, object_id, remove=True)


PROMPTS = st.builds(
    lambda kind, *place: removal(*place) if kind is None else click(*place, kind),
    st.sampled_from([1, 1, 1, 0, None]),
    st.integers(0, FRAMES - 1),
    st.integers(1, 4),
)


def refused(prompts, most, *, reverse):
    """Tell whether these prompts make no sense together: everything is looked at anew."""
    try:
        check_prompts(prompts, **CLIP, reverse=reverse)
    except PromptError:
        return True
    active = set()
    for prompt in sorted(merge_prompts(prompts), key=lambda one: (-one.frame if reverse else one.frame, not one.remove)):
        active = active - {prompt.object_id} if prompt.remove else active | {prompt.object_id}
        if len(active) > most:
            return True
    return False


def told(prompts):
    return [(prompt.frame, prompt.object_id, prompt.labels.tolist(), prompt.remove) for prompt in prompts]


@settings(deadline=None, max_examples=200)
@given(
    batches=st.lists(st.lists(PROMPTS, max_size=4), min_size=FRAMES, max_size=FRAMES),
    early=st.lists(PROMPTS, max_size=4),
    reverse=st.booleans(),
    most=st.integers(1, 3),
)
def test_prompts_that_come_one_after_the_other_are_what_they_are_together(batches, early, reverse, most):
    """Before each frame some come for it and for those ahead; what is refused leaves no trace."""
    if early and refused(early, most, reverse=reverse):
        with pytest.raises(PromptError):
            Schedule(merge_prompts(early), most=most, reverse=reverse)
        early = []
    kept, known = early, {(one.frame, one.object_id): one for one in merge_prompts(early)}
    scheduled = Schedule(list(known.values()), most=most, reverse=reverse)
    for place, batch in enumerate(batches):
        frame = FRAMES - 1 - place if reverse else place
        scheduled.leave_behind(frame)
        coming = [one for one in batch if (one.frame <= frame if reverse else one.frame >= frame)]
        try:
            merged = merge_prompts(coming, known)
            scheduled.add(merged)
        except PromptError:
            assert refused(kept + coming, most, reverse=reverse)
        else:
            kept = kept + coming
            assert not kept or not refused(kept, most, reverse=reverse)
            known |= {(one.frame, one.object_id): one for one in merged}
        due = sorted((one for one in merge_prompts(kept) if one.frame == frame), key=lambda one: not one.remove)
        assert told(scheduled.due(frame)) == told(due)


def test_more_objects_than_there_is_memory_for_are_refused_on_the_frame_where_they_meet():
    scheduled = Schedule([click(0, 1), removal(4, 1)], most=1, reverse=False)
    with pytest.raises(PromptError, match="frame 3: more than 1 objects at once"):
        scheduled.add([click(3, 2)])
    scheduled.add([click(4, 2)])  # a removal on the same frame makes room
    assert told(scheduled.due(4)) == told([removal(4, 1), click(4, 2)])


def test_a_prompt_costs_as_much_after_hundreds_as_at_first(monkeypatch):
    """Four objects are corrected on every frame, and one goes and another one comes, as with a detector that looks at every frame."""
    frames, each, stories, looked_at = 150, [], [], []
    checked, counted, check_place = prompt_rules.check_story, schedule._follow, prompt_rules._check_place
    monkeypatch.setattr(schedule, "check_story", lambda prompts, reverse: (stories.append(len(prompts)), checked(prompts, reverse=reverse)))
    monkeypatch.setattr(schedule, "_follow", lambda active, prompt: (looked_at.append(prompt), counted(active, prompt)))
    monkeypatch.setattr(prompt_rules, "_check_place", lambda prompt, count: (looked_at.append(prompt), check_place(prompt, count)))
    clip = HeldClip(
        VideoInfo("held", 64, 64, frames, Fraction(25), 0, Path("held")),
        tuple(Frame(index, index / 25, np.zeros((64, 64, 3), np.uint8), None) for index in range(frames)),
    )
    with Tracker(FakeSession(), MODEL, max_objects=4) as tracker:
        video = Video(tracker, clip)
        video.add_prompts([click(0, object_id) for object_id in range(1, 5)])
        running = video.propagate()
        for result in running:
            frame, (oldest, *others) = result.frame_index, result.object_ids
            if frame + 1 < frames:
                stories.clear()
                looked_at.clear()
                video.add_prompts([*(click(frame, one) for one in others), removal(frame + 1, oldest), click(frame + 1, oldest + 4)])
                each.append((sum(stories), len(looked_at)))
                next(running)
        assert len(video.prompts) > 3 * frames
    assert max(each) == each[5]
    assert max(each) <= (15, 30)
    assert len(set(each[5:])) == 1
