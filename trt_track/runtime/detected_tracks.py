"""Tracks from detections: what a detector found starts, confirms and brings back the objects that a video's tracker follows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from trt_track.errors import PromptError, TrtTrackError
from trt_track.runtime.appearance import Histogram
from trt_track.runtime.detections import Detection, FrameDetections
from trt_track.runtime.frames import ImageU8
from trt_track.runtime.identity import IdentityBook, KnownObject, Plan
from trt_track.runtime.identity_rules import IdentityRules
from trt_track.runtime.look_back import LookBack
from trt_track.runtime.prompts import Prompt
from trt_track.runtime.results import FrameResult
from trt_track.runtime.tracker import Video

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrackedFrame:
    """One frame of a clip with the objects that were found and tracked in it."""

    result: FrameResult
    labels: Mapping[int, str]
    """Label of each object of the result, by its id."""


class DetectedTracks:
    """One pass over a clip, forwards from its first frame, with the detections of some of its frames.

    The video's prompts are the tracks that the books opened: what its prompts call an object id is a track's number, and
    `KnownObject.tracks` tells whose it is.
    """

    def __init__(
        self,
        video: Video,
        detections: Sequence[FrameDetections],
        rules: IdentityRules | None = None,
        *,
        on_warning: Callable[[str], None] = _log.warning,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            video: without prompts.
            detections: in any order, one for a frame at most; frames that are not among them were not looked at.
            rules: when two things are the same.
            on_warning: called with a line, once when more objects are found than the tracker holds memory for, and once when objects
                cannot be followed back for want of it.

        Raises:
            PromptError: the video has prompts, or a detection is of a frame that the clip does not have, or of one frame twice.
        """
        _check_unprompted(video)
        self.video, self.on_warning = video, on_warning
        self.book = IdentityBook(rules or IdentityRules(), max_objects=video.tracker.limits.objects)
        self._found = _by_frame(detections, video.info.frame_count)
        self._warned = False

    @property
    def objects(self) -> tuple[KnownObject, ...]:
        """All objects so far, by id."""
        return tuple(self.book.objects.values())

    def propagate(
        self, *, max_frames: int | None = None, keep_video: bool = False, keep_logits: bool = False, throughput: bool = False
    ) -> Generator[TrackedFrame, None, None]:
        """Track everything that was found; this can be done once.

        Args:
            max_frames: frames of the clip to read at most.
            keep_video: whether results carry the frame itself, for drawing.
            keep_logits: whether results carry the low-resolution mask logits.
            throughput: yield each result when the next frame has been asked for, see `Video.propagate`; frames with detections are yielded
                at once all the same. A track that is lost is computed for one frame more.

        Yields:
            Each frame of the clip once, in order, from its first one; frames before the first object have none. Arrays are the caller's.

        Raises:
            PromptError: a box makes no sense for the clip, or the video has prompts.
            VideoError: the clip can be read no more; a clip that merely ends early ends the iteration and sets the video's `damage`.
        """
        _check_unprompted(self.video)
        count = self.video.info.frame_count
        stop = count if max_frames is None else min(max_frames, count)
        options = {"keep_logits": keep_logits, "throughput": throughput}
        with closing(self._passed(stop, options)) as results:
            for result in self._looked_back(results, stop):
                labels = {object_id: self.book.objects[object_id].label for object_id in result.object_ids}
                yield TrackedFrame(result if keep_video else replace(result, video_rgb_hwc=None), labels)

    def _looked_back(self, results: Iterator[FrameResult], stop: int) -> Iterator[FrameResult]:
        """Yield results, with their pictures, once objects that are found later were looked for in them."""
        looked_at = [frame for frame, found in self._found.items() if found and frame < stop]
        most = self.book.rules.look_back
        held = LookBack(self.video.tracker, self.video.info, most=most, looked_at=looked_at, on_warning=self.on_warning)
        try:
            for result in results:
                held.add(result)
                held.follow(self.book.begun if result.frame_index in self._found else {}, self._resembles)
                yield from held.ready()
        except TrtTrackError:
            yield from held.rest()  # what was tracked is not lost
            raise
        yield from held.rest()

    def _resembles(self, object_id: int, look: Histogram) -> bool:
        return self.book.objects[object_id].appearance.resemblance(look) >= self.book.rules.same_look

    def _passed(self, stop: int, options: Mapping[str, bool]) -> Generator[FrameResult, None, None]:
        """Yield the frames before `stop` with their pictures and their objects' ids, as one pass finds them."""
        first = min((frame for frame, found in self._found.items() if found and frame < stop), default=stop)
        reached = yield from self._without_objects(first)
        if reached < first or first == stop:
            return
        self._carry_out(self.book.plan(self._empty(first), self._found[first]), first)
        # The books need pictures; the video lets them go frame by frame, so that it costs their conversion alone.
        results = self.video.propagate(max_frames=stop - first, settled=self._found.keys(), keep_video=True, **options)
        with closing(results):
            for result in results:
                yield self._named(result, results, planned=result.frame_index == first)

    def _without_objects(self, stop: int) -> Generator[FrameResult, None, int]:
        """Yield the frames before the first object; return the frame that was reached."""
        reached = 0
        if stop == 0:
            return reached
        frames = self.video.source.frames(size=self.video.tracker.model.image_size, stop=stop, keep_video=True)
        with closing(frames):
            for frame in frames:
                yield self._empty(frame.index, frame.time_s, frame.video_rgb_hwc)
                reached = frame.index + 1
        return reached

    def _empty(self, frame: int, time_s: float = 0.0, picture: ImageU8 | None = None) -> FrameResult:
        nothing = np.zeros(0, np.float32)
        masks = np.zeros((0, self.video.info.height, self.video.info.width), np.bool_)
        return FrameResult(frame, time_s, (), masks, nothing, nothing, video_rgb_hwc=picture)

    def _named(self, result: FrameResult, results: Generator[FrameResult, None, None], *, planned: bool) -> FrameResult:
        """Return the last version of a frame, with the ids of its objects."""
        found = self._found.get(result.frame_index)
        if found is not None and not planned and self._carry_out(self.book.plan(result, found), result.frame_index):
            result = next(results)  # prompts for a frame that was just yielded make the video yield it once more
        ended = () if found is None else self.book.settle(result)
        ended += self.book.observe(result)
        after = max(result.frame_index + 1, self.video.first_open)  # what was prompted on a frame cannot be removed on it
        if ended and after < self.video.info.frame_count:
            self.video.add_prompts([Prompt(after, track, remove=True) for track in ended])
        return self.book.public(result)

    def _carry_out(self, plan: Plan, frame: int) -> bool:
        """Prompt the video as planned; tell whether there was anything to prompt."""
        if plan.left_out and not self._warned:
            self._warned = True
            self.on_warning(
                f"frame {frame}: {len(plan.left_out)} objects more were found than the {self.book.max_objects} that can be tracked; "
                "those with the best scores are tracked: raise --max-objects (max_objects in Python)"
            )
        prompts = [Prompt(frame, track, remove=True) for track in plan.stop]
        prompts += [Prompt(frame, one.track, box_xyxy_px=one.box_xyxy_px, conditions=True) for one in plan.correct]
        prompts += [Prompt(frame, one.track, box_xyxy_px=one.box_xyxy_px) for one in plan.start]
        if prompts:
            self.video.add_prompts(prompts)
        return bool(prompts)


def _check_unprompted(video: Video) -> None:
    if video.prompts:
        raise PromptError("the video has prompts already: open the clip anew to track what a detector found in it")


def _by_frame(detections: Sequence[FrameDetections], frame_count: int) -> dict[int, tuple[Detection, ...]]:
    found: dict[int, tuple[Detection, ...]] = {}
    for one in detections:
        if not 0 <= one.frame < frame_count:
            raise PromptError(
                f"there are detections for frame {one.frame}, but the clip has frames 0 to {frame_count - 1}: they are of another clip"
            )
        if one.frame in found:
            raise PromptError(f"there are detections for frame {one.frame} twice: keep one")
        found[one.frame] = one.found
    return found
