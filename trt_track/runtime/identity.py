"""Which detection is which object: the books of ids, kept from boxes, masks and colours alone.

A *track* is what the tracker computes under one number, without a break. An *object* has an id, which users see, and one track after
another: it leaves, its track is stopped, it comes back and gets a new track under its old id. No number and no id is ever given twice.

On a frame with detections the books are asked twice. `plan` matches boxes with the tracks that are in the frame and says which boxes need
a new track; once the tracker has started those and has their masks, `settle` says whose they are. Only then is an id given, because a mask
tells an object's colours from its surroundings' and a box does not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt

from trt_track.runtime.appearance import (
    Appearance,
    Box,
    Region,
    Sighting,
    affinity,
    box_iou,
    look_of,
    regions_of,
    share_inside,
    similarity,
    span,
)
from trt_track.runtime.detections import Detection
from trt_track.runtime.identity_rules import IdentityRules
from trt_track.runtime.results import FrameResult

Regions = dict[int, Region]
"""What each track covers on a frame: those that are in it."""

_TOUCHED: Final = 0.1
"""Affinity of a box with a mask that has mostly left it, at least: a third of what makes the box the track's."""
_CLAIMED: Final = 0.5
"""Share of what a mask covers outside its own box that must lie in another box to be held for another object."""


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """A track to start, or to correct."""

    track: int
    box_xyxy_px: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done on a frame. The last three tell what became of the other boxes, by their position in what was found."""

    stop: tuple[int, ...]
    """Tracks to stop before any is started."""
    start: tuple[Start, ...]
    correct: tuple[Start, ...]
    """Confirmed tracks to correct with their box."""
    confirmed: Mapping[int, int]
    """Track -> the box that fits it."""
    duplicates: tuple[int, ...]
    """Boxes of what is tracked or boxed already."""
    left_out: tuple[int, ...]
    """Boxes of new objects beyond the number that can be tracked."""


@dataclass(slots=True, eq=False)
class KnownObject:
    """An object that has, or had, an id."""

    object_id: int
    """From 1, in the order in which objects were found."""
    label: str
    """Of its first detection."""
    appearance: Appearance
    """Over the frames on which a detection confirmed it."""
    tracks: list[int] = field(default_factory=list)
    """Numbers of its tracks, the last one's at the end."""


@dataclass(slots=True, eq=False)
class _Track:
    """A track that is computed."""

    number: int
    label: str
    score: float
    last_seen: int
    known: KnownObject | None = None
    """Whose it is; open between `plan` and `settle`."""
    renews: KnownObject | None = None
    """Whose box it was started from, where that object's track had spread."""


class IdentityBook:
    """The books of one pass over a clip. Results that go in have the numbers of tracks as ids."""

    def __init__(self, rules: IdentityRules, *, max_objects: int) -> None:
        """Open empty books.

        Args:
            rules: when two things are the same.
            max_objects: tracks that can be computed at once.
        """
        self.rules, self.max_objects = rules, max_objects
        self.objects: dict[int, KnownObject] = {}
        """All that were ever found, by id."""
        self._live: dict[int, _Track] = {}
        self._numbers = 0
        self._boxes: dict[int, npt.NDArray[np.float32]] = {}
        """Box of each track that the last `plan` confirmed or started."""
        self._astray: frozenset[int] = frozenset()
        """Tracks that the last `plan` saw on something else; they are computed on, as lost ones are, and may find their object again."""
        self.begun: dict[int, npt.NDArray[np.float32]] = {}
        """Box of each object, by id, that the last `settle` gave a new track."""

    def plan(self, seen: FrameResult, found: Sequence[Detection]) -> Plan:
        """Match what was found on a frame with the tracks that are in it.

        Args:
            seen: the frame as tracked, with `video_rgb_hwc` unless there are no objects.
            found: what the detector found there, in any order.

        Returns:
            What to stop and start; call `settle` with the frame's result once that is done.
        """
        self._astray = frozenset()
        covered = regions_of(seen)
        stop = self._stop(self._twins(self._own(covered), seen, found))
        regions = self._own(covered)
        kept = distinct_boxes(found, self.rules.same_box)
        matched = self._match(found, kept, regions)
        spread = {i: self._known(track) for track, i in matched.items() if self._has_spread(regions[track], i, found, kept)}
        confirmed = {track: i for track, i in matched.items() if i not in spread}
        stop += self._stop([track for track in matched if track not in confirmed])
        self._astray = self._strays([track for track in regions if track not in matched], regions, seen)
        regions = self._own(covered)
        self._boxes = {track: found[i].box_xyxy_px for track, i in confirmed.items()}
        correct = tuple(Start(track, box) for track, box in self._boxes.items() if affinity(box, regions[track]) <= self.rules.refresh)
        for track in confirmed:
            if share_inside(self._boxes[track], regions[track]) >= self.rules.inside:  # else its colours are not the object's alone
                self._known(track).appearance.learn(_sighting(seen, regions[track], self._boxes[track]))
        new = self._new_boxes(found, kept, matched, regions)
        stop += self._make_room(len(spread) + len(new), regions)
        started = [*spread, *new][: self.max_objects - len(self._live)]
        starts = tuple(self._open(found[i], seen.frame_index, spread.get(i)) for i in started)
        duplicates = tuple(i for i in range(len(found)) if i not in {*matched.values(), *new})
        return Plan(stop, starts, correct, confirmed, duplicates, tuple(i for i in new if i not in started))

    def settle(self, seen: FrameResult) -> tuple[int, ...]:
        """Give the tracks that `plan` started their objects: one that came back, or a new one.

        Args:
            seen: the frame as tracked with them, with `video_rgb_hwc`.

        Returns:
            Tracks to stop from the next frame on: started ones whose mask is empty, does not fit the box or is another's, and the old
            tracks of objects that came back.
        """
        regions = self._own(regions_of(seen))
        fresh = {track: _sighting(seen, regions[track.number], self._boxes[track.number]) for track in self._distinct(regions)}
        returned = self._returns(fresh, regions)
        replaced = [track.number for track in self._live.values() if track.known in returned.values()]
        for track, now in fresh.items():
            track.known = returned.get(track)
            if track.known is None:
                track.known = self._new_object(track.label, now)
            else:
                track.known.appearance.learn(now)
            track.known.tracks.append(track.number)
        self.begun = {self._known(track.number).object_id: self._boxes[track.number] for track in fresh}
        return self._stop([track.number for track in self._live.values() if track.known is None] + replaced)

    def observe(self, seen: FrameResult) -> tuple[int, ...]:
        """Note which tracks are in a frame; call it for every frame, after `settle` where there is one.

        Returns:
            Tracks to stop from the next frame on: unseen for `max_lost` frames.
        """
        for track, mask, presence in zip(seen.object_ids, seen.masks, seen.presence, strict=True):
            if track in self._live and track not in self._astray and presence > 0 and mask.any():
                self._live[track].last_seen = seen.frame_index
        lost = [track.number for track in self._live.values() if seen.frame_index - track.last_seen >= self.rules.max_lost]
        return self._stop(lost)

    def public(self, seen: FrameResult) -> FrameResult:
        """Return a result with the objects' ids for the tracks' numbers, without tracks that were stopped; nothing is copied otherwise.

        An object whose track went astray is not in the frame: its mask is empty, its presence negative.
        """
        seen = self._without_strays(seen)
        kept = [position for position, track in enumerate(seen.object_ids) if track in self._live]
        ids = tuple(self._known(seen.object_ids[position]).object_id for position in kept)
        if len(kept) == len(seen.object_ids):
            return replace(seen, object_ids=ids)
        return replace(
            seen,
            object_ids=ids,
            masks=seen.masks[kept],
            ious=seen.ious[kept],
            presence=seen.presence[kept],
            logits=None if seen.logits is None else seen.logits[kept],
            chosen=None if seen.chosen is None else seen.chosen[kept],
        )

    def _without_strays(self, seen: FrameResult) -> FrameResult:
        astray = np.array([track in self._astray for track in seen.object_ids], bool)
        if not astray.any():
            return seen
        masks = seen.masks & ~astray[:, None, None]
        logits = None if seen.logits is None else np.where(astray[:, None, None, None], -np.abs(seen.logits), seen.logits)
        return replace(seen, masks=masks, presence=np.where(astray, -np.abs(seen.presence), seen.presence), logits=logits)

    def _own(self, regions: Regions) -> Regions:
        """Leave out tracks that were stopped or went astray."""
        return {track: region for track, region in regions.items() if track in self._live and track not in self._astray}

    def _known(self, track: int) -> KnownObject:
        known = self._live[track].known
        if known is None:
            raise ValueError(f"track {track} is not settled: call settle after plan")
        return known

    def _stop(self, tracks: Collection[int]) -> tuple[int, ...]:
        for track in tracks:
            self._live.pop(track, None)
        return tuple(dict.fromkeys(tracks))

    def _twins(self, regions: Regions, seen: FrameResult, found: Sequence[Detection]) -> list[int]:
        """Return the tracks that left their object for another's.

        Of two that cover the same pixels it is the one whose label no box gives them; where that does not tell, whose object is less like
        them.
        """
        strays = []
        for pair in combinations(regions, 2):
            if regions[pair[0]].iou(regions[pair[1]]) >= self.rules.same_mask:
                shown = {track: _sighting(seen, regions[track], regions[track].box_xyxy_px) for track in pair}
                named = {track: self._is_named(track, regions[track], found) for track in pair}
                strays.append(min(pair, key=lambda track: (named[track], self._known(track).appearance.likeness(shown[track]), -track)))
        return strays

    def _is_named(self, track: int, region: Region, found: Sequence[Detection]) -> bool:
        """Tell whether a box with a track's label fits what the track covers."""
        label, least = self._live[track].label, self.rules.same_object
        return any(one.label == label and affinity(one.box_xyxy_px, region) >= least for one in found)

    def _strays(self, unmatched: Sequence[int], regions: Regions, seen: FrameResult) -> frozenset[int]:
        """Return the tracks that cover something else: no box says that they have their object, and what they cover has other colours."""
        looks = {track: _sighting(seen, regions[track], regions[track].box_xyxy_px).look for track in unmatched}
        return frozenset(track for track, look in looks.items() if self._known(track).appearance.resemblance(look) < self.rules.same_look)

    def _has_spread(self, region: Region, own: int, found: Sequence[Detection], kept: Sequence[int]) -> bool:
        """Tell whether a mask covers another object beside its own: too much lies outside its box, and mostly in another one."""
        box = found[own].box_xyxy_px
        inner, outer = region.split(box)
        if inner.area_px >= self.rules.inside * region.area_px:
            return False
        others = (found[i].box_xyxy_px for i in kept if box_iou(found[i].box_xyxy_px, box) < self.rules.same_box)
        return any(share_inside(other, outer) >= _CLAIMED for other in others)

    def _match(self, found: Sequence[Detection], kept: Sequence[int], regions: Regions) -> dict[int, int]:
        """Return track -> position in `found`, one to one, with the largest sum of affinities."""
        tracks = list(regions)
        fit = np.zeros((len(tracks), len(kept)))
        for row, track in enumerate(tracks):
            for column, position in enumerate(kept):
                if found[position].label == self._live[track].label:
                    fit[row, column] = affinity(found[position].box_xyxy_px, regions[track])
        fit[fit < self.rules.same_object] = 0
        return {tracks[row]: kept[column] for row, column in assign(fit)}

    def _new_boxes(self, found: Sequence[Detection], kept: Sequence[int], matched: Mapping[int, int], regions: Regions) -> list[int]:
        """Return the positions of the boxes of new objects, the best first: those around nothing that is tracked or boxed better already.

        Where two phrases fit one thing it keeps the label of its track, and without a track it gets that of the higher score: no place is
        made, and no track started, for a second name.
        """
        taken, new = list(matched.values()), []
        for i in kept:
            box = found[i].box_xyxy_px
            again = any(box_iou(found[j].box_xyxy_px, box) >= self.rules.same_box for j in taken)
            if not again and not self._covered(found[i], regions) and not self._is_tracked(found[i], regions):
                new.append(i)
                taken.append(i)
        return new

    def _is_tracked(self, one: Detection, regions: Regions) -> bool:
        """Tell whether a box is around what a track with another label covers."""
        others = (region for track, region in regions.items() if self._live[track].label != one.label)
        return any(affinity(one.box_xyxy_px, region) >= self.rules.same_box for region in others)

    def _covered(self, one: Detection, regions: Regions) -> bool:
        """Tell whether a box that is no track's only holds what is tracked."""
        inner = [
            region
            for track, region in regions.items()
            if self._live[track].label == one.label and share_inside(one.box_xyxy_px, region) >= self.rules.inside
        ]
        return span(one.box_xyxy_px, inner) >= self.rules.covered

    def _make_room(self, wanted: int, regions: Regions) -> tuple[int, ...]:
        """Stop tracks that are not seen, the longest unseen first, as far as new ones need their place."""
        unseen = sorted((track for track in self._live.values() if track.number not in regions), key=lambda track: track.last_seen)
        lacking = max(0, wanted - (self.max_objects - len(self._live)))
        return self._stop([track.number for track in unseen[:lacking]])

    def _open(self, one: Detection, frame: int, renews: KnownObject | None) -> Start:
        self._numbers += 1
        self._live[self._numbers] = _Track(self._numbers, one.label, one.score, last_seen=frame, renews=renews)
        self._boxes[self._numbers] = one.box_xyxy_px
        return Start(self._numbers, one.box_xyxy_px)

    def _distinct(self, regions: Regions) -> list[_Track]:
        """Return the started tracks that have a mask of their own, the best scored first."""
        present = [track for track in self._live.values() if track.number in regions]
        others = [track for track in present if track.known is not None]
        fresh: list[_Track] = []
        for track in sorted((track for track in present if track.known is None), key=lambda track: -track.score):
            fits = affinity(self._boxes[track.number], regions[track.number]) >= self.rules.fit
            if fits and not self._repeats(track, others + fresh, regions):
                fresh.append(track)
        return fresh

    def _repeats(self, track: _Track, others: Sequence[_Track], regions: Regions) -> bool:
        """Tell whether a mask is another's, or a part of what tracks with its label cover."""
        region = regions[track.number]
        if any(region.iou(regions[other.number]) >= self.rules.same_mask for other in others):
            return True
        return region.share_under([self._held(other, regions) for other in others if other.label == track.label]) >= self.rules.inside

    def _held(self, track: _Track, regions: Regions) -> Region:
        """Return what a track covers, inside its box where it has one on this frame: the rest may be another object's."""
        box = self._boxes.get(track.number)
        return regions[track.number] if box is None else regions[track.number].split(box)[0]

    def _returns(self, fresh: Mapping[_Track, Sighting], regions: Regions) -> dict[_Track, KnownObject]:
        """Return whose the started tracks are that look like an object with their label that is not in the frame, or left its own track."""
        present = {track.known: track.number for track in self._live.values() if track.number in regions}
        objects = list(self.objects.values())
        alike = np.zeros((len(fresh), len(objects)))
        for row, (track, now) in enumerate(fresh.items()):
            for column, known in enumerate(objects):
                free = known not in present or self._has_drifted(present[known], regions, now)
                same = known.label == track.label and similarity(known.appearance.look, now.look) >= self.rules.same_look
                if free and (known is track.renews or same):
                    alike[row, column] = known.appearance.likeness(now)
        tracks = list(fresh)
        return {tracks[row]: objects[column] for row, column in assign(alike)}

    def _has_drifted(self, track: int, regions: Regions, now: Sighting) -> bool:
        """Tell whether a track that no box confirms still touches a new object's box: its mask is leaving the object that is found anew."""
        return track not in self._boxes and affinity(now.box_xyxy_px, regions[track]) >= _TOUCHED

    def _new_object(self, label: str, first: Sighting) -> KnownObject:
        known = KnownObject(len(self.objects) + 1, label, Appearance(first))
        self.objects[known.object_id] = known
        return known


def distinct_boxes(found: Sequence[Detection], same_box: float) -> list[int]:
    """Return the positions of the boxes that no better one with the same label repeats (greedy non-maximum suppression), the best first.

    Args:
        found: boxes, in any order.
        same_box: IoU from which on a box repeats another.
    """
    kept: list[int] = []
    for i in sorted(range(len(found)), key=lambda i: -found[i].score):
        better = (found[j] for j in kept if found[j].label == found[i].label)
        if not any(box_iou(one.box_xyxy_px, found[i].box_xyxy_px) >= same_box for one in better):
            kept.append(i)
    return kept


def assign(fit: npt.NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return the pairs (row, column), one to one, that together fit best.

    Args:
        fit: (rows, columns) float64, 0 for what is no pair; either may be 0.
    """
    from scipy.optimize import linear_sum_assignment

    pairs = zip(*linear_sum_assignment(fit, maximize=True), strict=True)
    return [(int(row), int(column)) for row, column in pairs if fit[row, column] > 0]


def _sighting(seen: FrameResult, region: Region, box_xyxy_px: Box) -> Sighting:
    if seen.video_rgb_hwc is None:
        raise ValueError(f"frame {seen.frame_index} comes without its picture: propagate with keep_video")
    return Sighting(seen.frame_index, box_xyxy_px, look_of(seen.video_rgb_hwc, region))
