"""Histories in which objects come and go, and what each object remembers on each frame of one, for tests with and without a GPU."""

from fractions import Fraction
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from trt_track.runtime.frames import Frame, VideoInfo
from trt_track.runtime.held_clip import HeldClip

FRAMES, OBJECTS = 20, 4


@st.composite
def histories(draw):
    """Starts, corrections and removals by frame, as (kind, object): never more than `OBJECTS` at once, an id that went stays away."""
    events, active, next_id = {0: [("start", 1)]}, [1], 2
    for frame in range(FRAMES):
        for _ in range(draw(st.integers(0, 2 if frame % 3 == 0 else 1))):
            kind = draw(st.sampled_from(("start", "start", "correct", "remove")))
            prompted = {object_id for _, object_id in events.get(frame, ())}
            free = [object_id for object_id in active if object_id not in prompted]
            if kind == "start" and len(active) < OBJECTS:
                events.setdefault(frame, []).append((kind, next_id))
                active.append(next_id)
                next_id += 1
            elif kind != "start" and free:
                object_id = draw(st.sampled_from(free))
                events.setdefault(frame, []).append((kind, object_id))
                if kind == "remove":
                    active.remove(object_id)
    return events


def blank_clip(size):
    pixels = np.zeros((size, size, 3), np.uint8)
    return HeldClip(
        VideoInfo("held", 40, 30, FRAMES, Fraction(25), 0, Path("held")), tuple(Frame(i, i / 25, pixels, None) for i in range(FRAMES))
    )


def prompt(video, events):
    for frame, told in events.items():
        for kind, object_id in told:
            if kind == "remove":
                video.remove(object_id=object_id, frame=frame)
            else:
                video.add(object_id=object_id, frame=frame, points=[(9, 9)])


def memories_of(owner, start, frame):
    """The frame that it started on, then the last six, the oldest first: whose, of which frame, how old."""
    recent = range(max(start + 1, frame - 6), frame)
    return [(owner, start, 0), *((owner, known, 7 - (frame - known)) for known in recent)]


def pointers_of(owner, start, frame):
    """The frame that it started on, then the last fifteen, the nearest first."""
    recent = range(frame - 1, max(start, frame - 16), -1)
    return [(owner, start, frame - start), *((owner, known, frame - known) for known in recent)]
