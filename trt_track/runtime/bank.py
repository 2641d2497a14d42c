"""The memory bank's books: which page and which pointer of the bank belongs to which frame of which object.

Integers only. The memories themselves lie in two arrays of the session, which the `memory_attention` graph reads by index: pages of
(M, G, G) and pointers of (C,). An object holds its conditioning frames and its last frames, never more, however long the video is.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from trt_track.errors import ModelError, PromptError
from trt_track.specs import Limits, ModelSpec


class SlotPool:
    """Hands out the numbers 0 to capacity - 1, lowest first, and takes them back."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._free = list(range(capacity - 1, -1, -1))

    @property
    def used(self) -> int:
        """How many numbers are out."""
        return self.capacity - len(self._free)

    def take(self) -> int:
        """Return a free number.

        Raises:
            PromptError: all are out.
        """
        if not self._free:
            raise PromptError(f"the memory bank is full ({self.capacity} slots): raise --max-objects (max_objects in Python)")
        return self._free.pop()

    def give_back(self, slot: int) -> None:
        """Take a number back."""
        self._free.append(slot)


@dataclass(slots=True)
class ObjectMemory:
    """What one object remembers: frame number -> slot, for conditioning frames and for recent ones."""

    conditioning_pages: dict[int, int] = field(default_factory=dict)
    conditioning_pointers: dict[int, int] = field(default_factory=dict)
    recent_pages: dict[int, int] = field(default_factory=dict)
    recent_pointers: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recall:
    """What one object attends to on one frame: slots of the bank and their ages, in upstream's order."""

    pages: list[int]
    ages: list[int]
    pointers: list[int]
    pointer_ages: list[int]

    @property
    def key(self) -> tuple[int, int]:
        """Numbers of memories and pointers: objects with equal ones can run in one batch."""
        return len(self.pages), len(self.pointers)


def most_conditioning(model: ModelSpec, limits: Limits) -> int:
    """Return how many conditioning frames of an object are kept: all that its recent ones leave room for, or fewer if the model says so."""
    room = max(1, limits.memories - (model.memory_frames - 1))
    return min(room, model.max_conditioning) if model.max_conditioning > 0 else room


def conditioning_limits(model: ModelSpec, objects: int, most: int | None) -> Limits:
    """Return limits with room for so many conditioning frames of each object.

    Args:
        model: how many recent frames an object remembers beside them.
        objects: objects at once.
        most: conditioning frames of one object, of which the nearest to the frame tracked are kept; None for all that there is room for.

    Raises:
        ModelError: there is no room for so many, or not even one is asked for.
    """
    limits = Limits(objects=objects)
    room = most_conditioning(model, limits)
    if most is None:
        return limits
    if not 1 <= most <= room:
        raise ModelError(
            f"{most} conditioning frames of each object are not possible with {model.name}: give --max-conditioning (max_conditioning in "
            f"Python) from 1 to {room}"
        )
    return replace(limits, memories=model.memory_frames - 1 + most)


class MemoryBank:
    """Assigns the slots of the bank for all objects of one video.

    Which frames are attended to, and in which order, follows `_prepare_memory_conditioned_features` of upstream's sam2_base.py.
    """

    def __init__(self, model: ModelSpec, limits: Limits, frame_count: int, *, reverse: bool = False) -> None:
        """Open the books.

        Args:
            model: how many frames are remembered.
            limits: capacity.
            frame_count: frames of the video; the span of pointer ages depends on it when it is under 16.
            reverse: whether the video is tracked from its end to its start.
        """
        self.model, self.frame_count, self.step = model, frame_count, -1 if reverse else 1
        self.pages = SlotPool(limits.pages)
        self.pointers = SlotPool(limits.pointers)
        self.max_conditioning = most_conditioning(model, limits)
        self.pointer_frames = min(frame_count, model.pointer_frames)
        self._objects: dict[int, ObjectMemory] = {}

    @property
    def pointer_span(self) -> int:
        """What pointer ages are divided by, upstream's `t_diff_max`."""
        return max(self.pointer_frames - 1, 1)

    def condition(self, object_id: int, frame: int) -> tuple[int, int]:
        """Return the (page, pointer) to write a conditioning frame to; the farthest one becomes a recent one when there are too many."""
        memory = self._objects.setdefault(object_id, ObjectMemory())
        self._drop(memory.recent_pages, self.pages, [frame])
        self._drop(memory.recent_pointers, self.pointers, [frame])
        if frame not in memory.conditioning_pages and len(memory.conditioning_pages) == self.max_conditioning:
            farthest = max(memory.conditioning_pages, key=lambda known: abs(known - frame))
            memory.recent_pages[farthest] = memory.conditioning_pages.pop(farthest)
            memory.recent_pointers[farthest] = memory.conditioning_pointers.pop(farthest)
            self._drop_unreachable(memory, frame)
        return self._slot(memory.conditioning_pages, self.pages, frame), self._slot(memory.conditioning_pointers, self.pointers, frame)

    def remember(self, object_id: int, frame: int) -> tuple[int, int]:
        """Return the (page, pointer) to write a tracked frame to; frames that no later one attends to give theirs back."""
        memory = self._objects[object_id]
        self._drop_unreachable(memory, frame)
        return self._slot(memory.recent_pages, self.pages, frame), self._slot(memory.recent_pointers, self.pointers, frame)

    def forget(self, object_id: int) -> None:
        """Give back everything that an object holds."""
        memory = self._objects.pop(object_id)
        for slots, pool in (
            (memory.conditioning_pages, self.pages),
            (memory.conditioning_pointers, self.pointers),
            (memory.recent_pages, self.pages),
            (memory.recent_pointers, self.pointers),
        ):
            self._drop(slots, pool, list(slots))

    def recall(self, object_id: int, frame: int) -> Recall:
        """Return what an object attends to on a frame."""
        memory = self._objects[object_id]
        selected, step, oldest = self._nearest(memory.conditioning_pages, frame), self.step, self.model.memory_frames
        pages, ages = [memory.conditioning_pages[known] for known in selected], [0] * len(selected)
        past = self._past(memory.recent_pages, memory.conditioning_pages, selected)
        for age in range(1, oldest):
            page = past.get(frame - step * (oldest - age))
            if page is not None:
                pages.append(page)
                ages.append(age)
        return Recall(pages, ages, *self._recall_pointers(memory, frame, selected))

    def _recall_pointers(self, memory: ObjectMemory, frame: int, selected: list[int]) -> tuple[list[int], list[int]]:
        """Return pointers and ages of the conditioning frames, then of the last frames, nearest first."""
        pointers, ages, step = [], [], self.step
        for known in selected:
            distance = (frame - known) * step
            if distance >= 0 or not self.model.past_pointers_only:
                pointers.append(memory.conditioning_pointers[known])
                ages.append(distance if self.model.signed_pointer_age else abs(distance))
        past = self._past(memory.recent_pointers, memory.conditioning_pointers, selected)
        for distance in range(1, self.pointer_frames):
            pointer = past.get(frame - step * distance)
            if pointer is not None:
                pointers.append(pointer)
                ages.append(distance)
        return pointers, ages

    def _nearest(self, conditioning: dict[int, int], frame: int) -> list[int]:
        """Return the conditioning frames to attend to: `select_closest_cond_frames` of upstream's sam2_utils.py."""
        if len(conditioning) <= self.max_conditioning:
            return list(conditioning)
        before = max((known for known in conditioning if known < frame), default=None)
        after = min((known for known in conditioning if known >= frame), default=None)
        selected = [known for known in (before, after) if known is not None]
        others = sorted((known for known in conditioning if known not in selected), key=lambda known: abs(known - frame))
        return selected + others[: self.max_conditioning - len(selected)]

    @staticmethod
    def _past(recent: dict[int, int], conditioning: dict[int, int], selected: list[int]) -> dict[int, int]:
        """Return the slots of past frames: a conditioning frame that was not selected counts as a recent one."""
        if len(selected) == len(conditioning):
            return recent
        return {known: slot for known, slot in conditioning.items() if known not in selected} | recent

    @staticmethod
    def _slot(slots: dict[int, int], pool: SlotPool, frame: int) -> int:
        if frame not in slots:
            slots[frame] = pool.take()
        return slots[frame]

    def _drop_unreachable(self, memory: ObjectMemory, frame: int) -> None:
        self._drop_passed(memory.recent_pages, self.pages, frame, keep=self.model.memory_frames - 1)
        self._drop_passed(memory.recent_pointers, self.pointers, frame, keep=self.model.pointer_frames - 1)

    def _drop_passed(self, slots: dict[int, int], pool: SlotPool, frame: int, *, keep: int) -> None:
        self._drop(slots, pool, [known for known in slots if abs(frame - known) > keep])

    @staticmethod
    def _drop(slots: dict[int, int], pool: SlotPool, frames: list[int]) -> None:
        for frame in frames:
            if frame in slots:
                pool.give_back(slots.pop(frame))
