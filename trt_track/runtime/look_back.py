"""Looking back: an object that is found on one frame is followed back through the frames before it, which are held for that.

A detector that looks at every tenth frame finds what has entered up to nine frames late, and later still what it missed at first. The
frames in between are held back until nothing can be found any more that may be seen in them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Set
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from trt_track.errors import DeviceMemoryError
from trt_track.runtime.appearance import Histogram, look_of, regions_of
from trt_track.runtime.frames import Frame, ImageU8, VideoInfo, frame_of
from trt_track.runtime.prompts import Prompt
from trt_track.runtime.results import FrameResult
from trt_track.runtime.tracker import Tracker, Video

Resembles: TypeAlias = Callable[[int, Histogram], bool]
"""Tells whether the object of an id may look so."""

_TAKEN: Final = 0.5
"""Share of a mask that may lie in other objects' masks, at most: more is theirs."""
_ROWS: Final = ("masks", "ious", "presence", "logits", "chosen")
"""Arrays of a result with a row for each object."""


@dataclass(frozen=True, slots=True)
class HeldPictures:
    """Some frames of a clip, under their own numbers, in place of the clip; fills the `Source` protocol."""

    info: VideoInfo
    results: Mapping[int, FrameResult]
    """By frame, with pictures."""
    damage: str | None = None

    def frames(  # noqa: PLR0913 - which frames, and how
        self,
        *,
        size: int,
        reverse: bool = False,
        start: int | None = None,
        stop: int | None = None,
        only: Collection[int] | None = None,
        keep_video: bool = False,
    ) -> Generator[Frame, None, None]:
        """Yield frames as `VideoSource.frames` does, those that are held."""
        step = -1 if reverse else 1
        first = start if start is not None else (self.info.frame_count - 1 if reverse else 0)
        end = stop if stop is not None else (-1 if reverse else self.info.frame_count)
        for index in range(first, end, step):
            if index in self.results and (only is None or index in only):
                held, picture = self.results[index], picture_of(self.results[index])
                square = np.asarray(Image.fromarray(picture).resize((size, size)))
                yield frame_of(index, held.time_s, square, picture if keep_video else None)

    def close(self) -> None:
        """Do nothing: there is no file."""


class LookBack:
    """The last results of a pass, which objects that are found later are added to."""

    def __init__(
        self, tracker: Tracker, info: VideoInfo, *, most: int, looked_at: Collection[int], on_warning: Callable[[str], None]
    ) -> None:
        """Hold nothing yet.

        Args:
            tracker: follows objects back, with buffers of its own.
            info: the clip.
            most: frames to look back.
            looked_at: frames on which objects may be found.
            on_warning: called with a line when there is no memory for it; nothing is looked back at any more then.
        """
        self.tracker, self.info, self.most, self.on_warning = tracker, info, most, on_warning
        self._ahead = deque(sorted(looked_at))
        self._held: dict[int, FrameResult] = {}

    def add(self, result: FrameResult) -> None:
        """Hold the next frame's result, with its picture."""
        self._held[result.frame_index] = result
        while self._ahead and self._ahead[0] <= result.frame_index:
            self._ahead.popleft()

    def ready(self) -> Iterator[FrameResult]:
        """Yield, and no longer hold, the results that nothing will be added to."""
        needed = self._ahead[0] - self.most if self._ahead else self.info.frame_count
        for frame in [frame for frame in self._held if frame < needed]:
            yield self._held.pop(frame)

    def rest(self) -> Iterator[FrameResult]:
        """Yield all that are still held."""
        while self._held:
            yield self._held.pop(min(self._held))

    def follow(self, boxes_xyxy_px: Mapping[int, npt.NDArray[np.float32]], resembles: Resembles) -> None:
        """Follow objects back from the frame that was held last, each until it is not seen, is another's or is there already.

        Args:
            boxes_xyxy_px: where each object is on that frame, by id.
            resembles: tells whether what is seen there may be the object.
        """
        found = max(self._held)
        if not boxes_xyxy_px or self.most == 0 or found - 1 not in self._held:
            return
        try:
            self._follow(found, boxes_xyxy_px, resembles)
        except DeviceMemoryError as error:
            self.most = 0
            self.on_warning(f"frame {found}: objects are not followed back from here on, the GPU's memory is short: {error}")

    def _follow(self, found: int, boxes_xyxy_px: Mapping[int, npt.NDArray[np.float32]], resembles: Resembles) -> None:
        video = Video(self.tracker, HeldPictures(self.info, dict(self._held)))
        video.add_prompts([Prompt(found, object_id, box_xyxy_px=box) for object_id, box in boxes_xyxy_px.items()])
        going = set(boxes_xyxy_px)
        keep_logits = self._held[found].logits is not None
        with closing(video.propagate(reverse=True, keep_logits=keep_logits)) as results:
            for result in results:
                if result.frame_index < found:
                    going &= self._added(result, going, resembles)
                if not going:
                    return

    def _added(self, result: FrameResult, going: Set[int], resembles: Resembles) -> set[int]:
        """Add objects to the held result of a frame; return those that are followed on.

        Who is there already goes along, as its mask may have spread: where it covers one that is added, and on the way back does not, it
        gets its mask of the way back.
        """
        held = self._held[result.frame_index]
        there, regions = regions_of(held), regions_of(result)
        known = {object_id for object_id in going & regions.keys() if resembles(object_id, look_of(picture_of(held), regions[object_id]))}
        along = known & there.keys()
        added: set[int] = set()
        for object_id in sorted(known - along):
            region = regions[object_id]
            spread = {other for other in along if region.share_under([there[other]]) >= _TAKEN}
            shown = {**there, **{other: regions[other] for other in spread}}
            if region.share_under(list(shown.values())) < _TAKEN:
                there = {**shown, object_id: region}
                added |= {object_id, *spread}
        self._held[result.frame_index] = with_objects(held, result, sorted(added))
        return added | along if added else added


def picture_of(result: FrameResult) -> ImageU8:
    """Return a result's picture."""
    if result.video_rgb_hwc is None:
        raise ValueError(f"frame {result.frame_index} comes without its picture: propagate with keep_video")
    return result.video_rgb_hwc


def with_objects(result: FrameResult, other: FrameResult, object_ids: Collection[int]) -> FrameResult:
    """Return a result with some objects as another result of the same frame has them, in place of what was there under their ids."""
    if not object_ids:
        return result
    kept = [position for position, object_id in enumerate(result.object_ids) if object_id not in object_ids]
    taken = [other.object_ids.index(object_id) for object_id in object_ids]
    ids = (*(result.object_ids[position] for position in kept), *object_ids)
    rows: dict[str, Any] = {name: _joined(getattr(result, name), kept, getattr(other, name), taken) for name in _ROWS}
    return replace(result, object_ids=ids, **rows)


def _joined(first: npt.NDArray[Any] | None, kept: list[int], second: npt.NDArray[Any] | None, taken: list[int]) -> npt.NDArray[Any] | None:
    """Return rows of two arrays; the first one may be missing where none of its rows is kept."""
    if second is None or (first is None and kept):
        return None
    return second[taken] if first is None else np.concatenate([first[kept], second[taken].astype(first.dtype, copy=False)])
