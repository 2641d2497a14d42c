"""The memory bank's books against upstream's rule, written down anew with every frame kept for ever."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_track.errors import ModelError, PromptError
from trt_track.runtime.bank import MemoryBank, SlotPool, conditioning_limits, most_conditioning
from trt_track.specs import Limits, ModelSpec


@dataclass
class KeepsAll:
    """One object as upstream's `output_dict` has it: the slots of all its frames, none ever dropped."""

    conditioning: dict[int, tuple[int, int]] = field(default_factory=dict)
    tracked: dict[int, tuple[int, int]] = field(default_factory=dict)

    def attended(self, frame, frame_count, model: ModelSpec, *, reverse):
        """(page, age) and (pointer, age) that `_prepare_memory_conditioned_features` of sam2_base.py would gather."""
        ago = -1 if reverse else 1
        selected = closest(frame, self.conditioning, model.max_conditioning)
        unselected = {known: slots for known, slots in self.conditioning.items() if known not in selected}

        pages = [(page, 0) for page, _ in selected.values()]
        for place in range(1, model.memory_frames):
            slots = self._past(frame - ago * (model.memory_frames - place), unselected)
            if slots is not None:
                pages.append((slots[0], place))

        pointers = []
        for known, (_, pointer) in selected.items():
            passed = known >= frame if reverse else known <= frame
            if passed or not model.past_pointers_only:
                distance = (frame - known) * ago
                pointers.append((pointer, distance if model.signed_pointer_age else abs(distance)))
        for distance in range(1, min(frame_count, model.pointer_frames)):
            known = frame - ago * distance
            if not 0 <= known < frame_count:
                break
            slots = self._past(known, unselected)
            if slots is not None:
                pointers.append((slots[1], distance))
        return pages, pointers

    def _past(self, frame, unselected):
        return self.tracked.get(frame, unselected.get(frame))


def closest(frame, conditioning, most):
    """`select_closest_cond_frames` of sam2_utils.py."""
    if most == -1 or len(conditioning) <= most:
        return dict(conditioning)
    chosen = {}
    before = [known for known in conditioning if known < frame]
    after = [known for known in conditioning if known >= frame]
    if before:
        chosen[max(before)] = conditioning[max(before)]
    if after:
        chosen[min(after)] = conditioning[min(after)]
    rest = sorted((known for known in conditioning if known not in chosen), key=lambda known: abs(known - frame))
    chosen.update((known, conditioning[known]) for known in rest[: most - len(chosen)])
    return chosen


class Story:
    """Drives a bank and the oracle with the same events, as the tracking loop would, and compares them on every frame."""

    def __init__(self, model, limits, frame_count, *, reverse):
        self.model, self.limits, self.frame_count, self.reverse = model, limits, frame_count, reverse
        self.bank = MemoryBank(model, limits, frame_count, reverse=reverse)
        self.oracle: dict[int, KeepsAll] = {}

    def step(self, frame, events):
        """Let one frame pass; `events` are object -> start, correct or remove."""
        for object_id, event in events.items():
            if event == "remove" and object_id in self.oracle:
                self.bank.forget(object_id)
                del self.oracle[object_id]
        for object_id in list(self.oracle):
            self.follow(object_id, frame, corrected=events.get(object_id) == "correct")
        for object_id, event in events.items():
            if event == "start" and object_id not in self.oracle and len(self.oracle) < self.limits.objects:
                self.oracle[object_id] = KeepsAll()
                self.write(object_id, frame, conditioning=True)
        self.check_slots()

    def follow(self, object_id, frame, *, corrected):
        recall = self.bank.recall(object_id, frame)
        pages, pointers = self.oracle[object_id].attended(frame, self.frame_count, self.model, reverse=self.reverse)
        assert sorted(zip(recall.pages, recall.ages, strict=True)) == sorted(pages)
        assert sorted(zip(recall.pointers, recall.pointer_ages, strict=True)) == sorted(pointers)
        assert recall.key == (len(pages), len(pointers))
        assert 1 <= len(pages) <= self.limits.memories
        assert 1 <= len(pointers) <= self.limits.pointers_attended
        self.write(object_id, frame, conditioning=False)
        if corrected:
            self.write(object_id, frame, conditioning=self.model.corrections_condition)

    def write(self, object_id, frame, *, conditioning):
        slots = self.bank.condition(object_id, frame) if conditioning else self.bank.remember(object_id, frame)
        kept = self.oracle[object_id]
        kept.tracked.pop(frame, None)
        (kept.conditioning if conditioning else kept.tracked)[frame] = slots

    def check_slots(self):
        """Slots that are out belong to exactly one frame of one object, and none is out that belongs to none."""
        held = [
            (memory.conditioning_pages | memory.recent_pages, memory.conditioning_pointers | memory.recent_pointers)
            for memory in self.bank._objects.values()
        ]
        for pool, slots in (
            (self.bank.pages, [slot for pages, _ in held for slot in pages.values()]),
            (self.bank.pointers, [slot for _, pointers in held for slot in pointers.values()]),
        ):
            assert len(set(slots)) == len(slots) == pool.used
            assert all(0 <= slot < pool.capacity for slot in slots)
        assert all(len(pages) <= self.limits.memories + 1 and len(pointers) <= 20 for pages, pointers in held)


def model_of(**options):
    return ModelSpec("small", 128, **options)


events = st.dictionaries(st.integers(1, 4), st.sampled_from(["start", "start", "correct", "remove"]), max_size=2)
models = st.builds(
    model_of,
    signed_pointer_age=st.booleans(),
    past_pointers_only=st.booleans(),
    memory_frames=st.sampled_from([7, 7, 4]),
    pointer_frames=st.sampled_from([16, 16, 5]),
)


@settings(max_examples=150, deadline=None)
@given(
    model=models,
    history=st.lists(events, min_size=1, max_size=40),
    repeats=st.integers(1, 3),
    more=st.integers(0, 20),
    reverse=st.booleans(),
)
def test_recall_is_upstreams_rule(model, history, repeats, more, reverse):
    history = history + [{}] * 8 + history * repeats  # so that long memories come up too
    count = len(history) + more
    story = Story(model, Limits(objects=3), count, reverse=reverse)
    for position, happening in enumerate(history):
        story.step(count - 1 - position if reverse else position, happening)
    for object_id in list(story.oracle):
        story.bank.forget(object_id)
    assert story.bank.pages.used == story.bank.pointers.used == 0


@settings(max_examples=100, deadline=None)
@given(
    most=st.sampled_from([2, 3, 4]),
    limited=st.booleans(),
    signed=st.booleans(),
    corrected=st.lists(st.booleans(), min_size=10, max_size=50),
    reverse=st.booleans(),
)
def test_corrections_that_condition_follow_upstreams_selection(most, limited, signed, corrected, reverse):
    """Whether the model states the number or whoever tracks does, for whom the bank is smaller too."""
    model = model_of(corrections_condition=True, max_conditioning=most, signed_pointer_age=signed)
    limits = conditioning_limits(model, 1, most if limited else None)
    story = Story(model, limits, len(corrected) + 1, reverse=reverse)
    if limited:
        story.bank = MemoryBank(replace(model, max_conditioning=-1), limits, story.frame_count, reverse=reverse)
    for position, correct in enumerate([False, *corrected]):
        happening = {1: "correct" if correct else "start"}
        story.step(len(corrected) - position if reverse else position, happening)


def test_without_a_limit_of_the_model_four_conditioning_frames_are_held():
    bank = MemoryBank(model_of(corrections_condition=True), Limits(objects=1), 1000)
    for frame in range(0, 900, 100):
        bank.condition(1, frame)
    assert bank.recall(1, 899).key == (4, 4)
    assert bank.recall(1, 899).pointer_ages == [399, 299, 199, 99]
    assert (bank.pages.used, bank.pointers.used) == (4, 4)


@pytest.mark.parametrize(("model", "most"), [({}, 4), ({"max_conditioning": 2}, 2), ({"memory_frames": 5}, 6), ({"memory_frames": 12}, 1)])
def test_as_many_conditioning_frames_as_there_is_room_for(model, most):
    spec = model_of(**model)
    assert most_conditioning(spec, conditioning_limits(spec, 3, None)) == most
    for fewer in range(1, most + 1):
        limits = conditioning_limits(spec, 3, fewer)
        assert most_conditioning(spec, limits) == fewer
        assert limits.pages == 3 * (spec.memory_frames + fewer)
    for wrong in (0, -1, most + 1):
        with pytest.raises(
            ModelError, match=f"{wrong} conditioning frames of each object are not possible with small: .* from 1 to {most}$"
        ):
            conditioning_limits(spec, 3, wrong)


def test_one_conditioning_frame_is_the_last_one():
    model = model_of(corrections_condition=True)
    bank = MemoryBank(model, conditioning_limits(model, 1, 1), 1000)
    slots = {frame: bank.condition(1, frame) for frame in (0, 50, 100)}
    assert bank.recall(1, 200).pages == [slots[100][0]]
    assert (bank.pages.used, bank.pointers.used) == (1, 1)


def test_memory_of_one_object_in_the_order_of_upstream():
    bank = MemoryBank(model_of(), Limits(objects=1), 100)
    slots = {0: bank.condition(1, 0)}
    assert bank.recall(1, 1).key == (1, 1)
    for frame in range(1, 30):
        slots[frame] = bank.remember(1, frame)
    recall = bank.recall(1, 30)
    assert recall.pages == [slots[0][0], *(slots[frame][0] for frame in range(24, 30))]
    assert recall.ages == [0, 1, 2, 3, 4, 5, 6]
    assert recall.pointers == [slots[0][1], *(slots[frame][1] for frame in range(29, 14, -1))]
    assert recall.pointer_ages == [30, *range(1, 16)]


@pytest.mark.parametrize(("frames", "span"), [(1, 1), (2, 1), (5, 4), (16, 15), (1000, 15)])
def test_span_of_pointer_ages_is_that_of_short_clips_too(frames, span):
    assert MemoryBank(model_of(), Limits(objects=1), frames).pointer_span == span


def test_a_frame_that_is_written_twice_keeps_its_slots():
    bank = MemoryBank(model_of(), Limits(objects=1), 10)
    assert bank.condition(1, 0) == bank.condition(1, 0)
    assert bank.remember(1, 1) == bank.remember(1, 1)
    assert (bank.pages.used, bank.pointers.used) == (2, 2)


def test_a_tracked_frame_that_becomes_conditioning_is_held_once():
    bank = MemoryBank(model_of(corrections_condition=True), Limits(objects=1), 10)
    bank.condition(1, 0)
    bank.remember(1, 1)
    bank.condition(1, 1)
    assert (bank.pages.used, bank.pointers.used) == (2, 2)


def test_objects_that_are_forgotten_make_room():
    bank = MemoryBank(model_of(), Limits(objects=1), 1000)
    for object_id in range(1, 50):
        bank.condition(object_id, object_id)
        assert bank.pages.used == bank.pointers.used == 1
        bank.forget(object_id)
    assert bank.pages.used == bank.pointers.used == 0


def test_pool_hands_out_the_lowest_number_first_and_refuses_when_empty():
    pool = SlotPool(2)
    assert [pool.take(), pool.take()] == [0, 1]
    with pytest.raises(PromptError, match=r"memory bank is full \(2 slots\)"):
        pool.take()
    pool.give_back(1)
    assert (pool.used, pool.take()) == (1, 1)


def test_an_object_with_all_its_conditioning_frames_just_fits():
    limits = Limits(objects=1)
    bank = MemoryBank(model_of(corrections_condition=True), limits, 1000)
    for frame in range(4):
        bank.condition(1, frame)
    for frame in range(4, 60):
        bank.remember(1, frame)
    assert (bank.pages.used, bank.pointers.used) == (limits.pages, limits.pointers)
    assert bank.recall(1, 60).key == (limits.memories, limits.pointers_attended)
