"""Tracks from detections, from a clip to named results: the real loop and bank, a tracker that knows the truth, a detector that errs."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from fake_session import MODEL, FakeSession
from PIL import Image, ImageFilter
from trackeval.metrics import Identity

from trt_track.engines.host_arrays import HostFetched
from trt_track.errors import DeviceMemoryError, PromptError, VideoError
from trt_track.runtime.appearance import box_iou
from trt_track.runtime.detected_tracks import DetectedTracks
from trt_track.runtime.detection_stage import detection_frames
from trt_track.runtime.detections import Detection, FrameDetections
from trt_track.runtime.held_clip import HeldClip
from trt_track.runtime.identity_rules import IdentityRules
from trt_track.runtime.results import mask_boxes
from trt_track.runtime.steps import Asked
from trt_track.runtime.tracker import Tracker, Video
from trt_track.scenes import Material, Outline, Scene, SceneStyle, random_scene, random_texture
from trt_track.scenes.outline import VERTICES
from trt_track.scenes.path import Path
from trt_track.scenes.scene import Camera, Thing

SIZE_WH = (128, 96)
LEAST_PX = 30
"""Less of an object in the picture is no truth: neither is it asked of the detector."""


# The truth


@dataclass
class Clip:
    """A drawn scene, held."""

    pictures: list[np.ndarray]
    masks: list[np.ndarray]
    """(objects, H, W) bool of each frame."""

    @classmethod
    def of(cls, scene: Scene) -> Clip:
        drawn = list(scene.render())
        large = [frame.masks & (frame.masks.sum(axis=(1, 2), keepdims=True) >= LEAST_PX) for frame in drawn]
        return cls([frame.frame_rgb for frame in drawn], large)

    def boxes(self, frame: int) -> dict[int, np.ndarray]:
        """Return the tight box of each object that is in the frame."""
        return {i: box.astype(np.float32) for i, box in enumerate(mask_boxes(self.masks[frame])) if box[2] > 0}

    @property
    def frames(self) -> range:
        return range(len(self.pictures))


def thing(texture: int, path: Path) -> Thing:
    still = np.zeros(5)
    return Thing(Outline(np.ones(VERTICES), 1.0, still, still, still), path, random_texture(np.random.default_rng(texture), 48), True)


def line(start, velocity, *, radius=13.0) -> Path:
    return Path(start, velocity, (0.0, 0.0), 0.0, 0.0, 0.0, 0.01, radius, 0.03, 0.1)


def out_and_back(start, sway, *, period: int, radius=13.0) -> Path:
    """Away from `start` by `sway` and back again within `period` frames."""
    return Path(start, (0.0, 0.0), sway, np.pi / period, 0.0, 0.0, 0.0, radius, 0.03, 0.1)


def scene(*things: Thing, frames: int) -> Scene:
    ground = Image.new("RGB", (200, 160), (128, 128, 128))
    camera = Camera(Path((64, 48), (0.0, 0.0), (0.0, 0.0), 0.0, 0.0, 0.0, 0.0, 100, 0.0, 0.0), ground, False, 2.0, None)
    return Scene(SIZE_WH, frames, camera, things)


@pytest.fixture(scope="module")
def comings_and_goings() -> Clip:
    """One stays, two enter late from two sides, one leaves for about 45 frames and comes back, one leaves for good."""
    return Clip.of(
        scene(
            thing(3, line((25, 75), (0.3, 0.0))),
            thing(7, line((-40, 20), (1.1, 0.1))),
            thing(11, line((200, 50), (-0.9, 0.3))),
            thing(31, out_and_back((100, 72), (75.0, 0.0), period=75)),
            thing(27, line((60, 30), (0.0, -1.1))),
            frames=140,
        )
    )


@pytest.fixture(scope="module")
def crossing() -> Clip:
    """Two of one pattern pass each other, the larger one hides the other for some frames."""
    clip = Clip.of(scene(thing(11, line((20, 46), (1.1, 0.0))), thing(11, line((108, 50), (-1.1, 0.0), radius=19.0)), frames=80))
    assert sum(not mask[0].any() for mask in clip.masks) > 5
    return clip


# The detector and the tracker


@dataclass
class ErringDetector:
    """True boxes, with jitter, misses, and second boxes for one object."""

    clip: Clip
    jitter: float = 0.05
    """Standard deviation of a side's place, as a share of the box."""
    misses: float = 0.1
    doubles: float = 0.25
    label: str = "thing"

    def find(self, frame: int) -> FrameDetections:
        rng = np.random.default_rng((7, frame))
        found = []
        for box in self.clip.boxes(frame).values():
            for score in (0.9, 0.6) if rng.random() < self.doubles else (0.9,):
                if rng.random() >= self.misses:
                    found.append(Detection(self._moved(box, rng), score - rng.random() / 10, self.label))
        return FrameDetections(frame, tuple(sorted(found, key=lambda one: -one.score)))

    def _moved(self, box, rng):
        sides = np.tile(box[2:] - box[:2], 2)
        low = np.tile(np.zeros(2, np.float32), 2)
        moved = np.clip(box + rng.normal(0, self.jitter, 4) * sides, low, np.tile(SIZE_WH, 2))
        return moved.astype(np.float32) if (moved[2:] - moved[:2] >= 2).all() else box

    def every(self, step: int) -> list[FrameDetections]:
        return [self.find(frame) for frame in detection_frames(len(self.clip.pictures), step)]


@dataclass
class Oracle:
    """In the place of `Steps`: a box starts the object whose box it fits best, which is then followed by its true masks.

    Where nothing fits the box, the mask is empty. Its faults are those of real trackers.
    """

    clip: Clip
    finds_again: bool = False
    """Whether a track goes on when its object comes back; if not, an object out of sight is lost for good."""
    merges: bool = False
    """Whether a track that comes to touch another object covers both from then on."""
    jumps: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Frame -> (an object, another one): tracks of the first follow the second from there on."""
    spreads: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Frame -> (an object, another one): tracks of the first cover both from there on."""
    keep_logits: bool = False
    encodes_ahead: bool = True
    frames: int = 2
    truth: dict[int, set[int]] = field(default_factory=dict)
    """Track -> what it follows."""
    pages: dict[int, int] = field(default_factory=dict)
    """Frame -> pages of the bank in use."""
    computed: dict[int, list[int]] = field(default_factory=dict)
    """Frame -> tracks that were followed or started."""
    corrected: list[tuple[int, int]] = field(default_factory=list)
    """Frame and track of each correction."""

    def encode(self, frames_rgb_hwc):
        assert 0 < len(frames_rgb_hwc) <= self.frames
        assert {frame.shape for frame in frames_rgb_hwc} == {(MODEL.image_size, MODEL.image_size, 3)}
        return ["slot"] * len(frames_rgb_hwc)

    def start(self, slot, track, frame, bank, prompt):
        assert track not in self.truth, "a number was given twice"
        bank.condition(track, frame)
        box = (prompt.points / MODEL.image_size * SIZE_WH).reshape(4)
        fits = {i: box_iou(box, true) for i, true in self.clip.boxes(frame).items()}
        best = max(fits, key=fits.get, default=None)
        self.truth[track] = {best} if best is not None and fits[best] > 0.3 else set()
        return self._asked([track], frame, bank)

    def correct(self, slot, track, frame, bank, prompt, *, conditions):
        assert conditions
        self.corrected.append((frame, track))
        bank.recall(track, frame)
        bank.condition(track, frame)
        return self._asked([track], frame, bank)

    def follow(self, slot, tracks, frame, bank):
        for track in tracks:
            bank.recall(track, frame)
            bank.remember(track, frame)
            self._err(track, frame)
        return [self._asked(tracks, frame, bank)]

    def _err(self, track, frame):
        masks, followed = self.clip.masks[frame], self.truth[track]
        if not self.finds_again:
            followed -= {i for i in followed if not masks[i].any()}
        first, second = self.jumps.get(frame, (None, None))
        if first in followed:
            self.truth[track] = {second}
        elif self.spreads.get(frame, (None,))[0] in followed:
            followed.add(self.spreads[frame][1])
        elif self.merges and followed:
            grown = ImageFilter.MaxFilter(3)
            covered = np.asarray(Image.fromarray(masks[list(followed)].any(axis=0)).convert("L").filter(grown)) > 0
            followed |= {i for i, mask in enumerate(masks) if (mask & covered).any()}

    def _asked(self, tracks, frame, bank):
        self.pages[frame] = bank.pages.used
        self.computed.setdefault(frame, []).extend(tracks)
        masks = np.stack([self.clip.masks[frame][list(self.truth[track])].any(axis=0) for track in tracks])
        masks[:, ::7, ::3] = False  # no mask is perfect
        presence = np.where(masks.any(axis=(1, 2)), 5.0, -5.0).astype(np.float32)
        return Asked(tracks, HostFetched([masks.view(np.uint8), np.full(len(tracks), 0.9, np.float32), presence]))


class OracleTracker(Tracker):
    def __init__(self, oracle: Oracle, *, room: int = 2, **limits: int | None) -> None:
        """There is memory for so many passes at once."""
        super().__init__(FakeSession(), MODEL, **limits)
        self.oracle, self.lent, self.room = oracle, 0, room

    @contextmanager
    def steps(self, video_wh, *, keep_logits, together):
        """Lend the oracle, and to a pass within a pass one that starts with nothing."""
        assert video_wh == SIZE_WH
        inner = replace(self.oracle, truth={}, pages={}, computed={}, corrected=[])
        if self.lent == self.room:
            raise DeviceMemoryError("300 MiB of GPU memory asked for")
        self.lent += 1
        try:
            yield self.oracle if self.lent == 1 else inner
        finally:
            self.lent -= 1


@dataclass
class Run:
    tracks: DetectedTracks
    frames: list
    oracle: Oracle
    warnings: list[str]


def track(clip: Clip, found, *, rules=None, max_objects=8, max_conditioning=None, oracle=None, room=2, **options) -> Run:
    oracle, warnings = oracle or Oracle(clip), []
    tracker = OracleTracker(oracle, room=room, max_objects=max_objects, max_conditioning=max_conditioning)
    video = Video(tracker, HeldClip.of_pictures(clip.pictures, size=MODEL.image_size))
    tracks = DetectedTracks(video, found, rules, on_warning=warnings.append)
    return Run(tracks, list(tracks.propagate(**options)), oracle, warnings)


def identity_scores(clip: Clip, run: Run) -> dict[str, float]:
    """Return what trackeval says of the ids: IDF1, IDP and IDR, a match being a mask IoU of at least 0.5."""
    truth, ours, likeness = [], [], []
    numbers = {object_id: number for number, object_id in enumerate(sorted({i for one in run.frames for i in one.result.object_ids}))}
    for masks, one in zip(clip.masks, run.frames, strict=True):
        true = np.flatnonzero(masks.any(axis=(1, 2)))
        seen = [position for position, mask in enumerate(one.result.masks) if mask.any()]
        truth.append(true)
        ours.append(np.array([numbers[one.result.object_ids[position]] for position in seen], int))
        likeness.append(_ious(masks[true], one.result.masks[seen]))
    return Identity({"PRINT_CONFIG": False}).eval_sequence(
        {
            "num_gt_dets": sum(map(len, truth)),
            "num_tracker_dets": sum(map(len, ours)),
            "num_gt_ids": len(clip.masks[0]),
            "num_tracker_ids": len(numbers),
            "gt_ids": truth,
            "tracker_ids": ours,
            "similarity_scores": likeness,
        }
    )


def _ious(true, seen):
    flat, other = (masks.reshape(len(masks), SIZE_WH[0] * SIZE_WH[1]).astype(np.float32) for masks in (true, seen))
    shared = flat @ other.T
    return shared / np.maximum(flat.sum(1)[:, None] + other.sum(1)[None] - shared, 1)


def ids_of(run: Run, clip: Clip, i: int) -> list[int]:
    """Return the ids that cover an object, in order, each as often as it begins anew; frames where two cover it tell nothing."""
    ids = []
    for one in run.frames:
        covering = np.flatnonzero(_ious(clip.masks[one.result.frame_index][i][None], one.result.masks)[0] >= 0.5)
        if len(covering) == 1 and ids[-1:] != [one.result.object_ids[covering[0]]]:
            ids.append(one.result.object_ids[covering[0]])
    return ids


# Nothing, and the edges


@pytest.fixture(scope="module")
def small() -> Clip:
    """Two objects that stay where they are, for 24 frames."""
    return Clip.of(scene(thing(3, line((30, 50), (0.0, 0.0))), thing(7, line((90, 50), (0.0, 0.0))), frames=24))


@pytest.mark.parametrize("found", [[], [FrameDetections(0, ())], [FrameDetections(frame, ()) for frame in range(0, 24, 10)]])
@pytest.mark.parametrize("keep_video", [False, True])
def test_without_detections_every_frame_is_there_and_empty(small, found, keep_video):
    run = track(small, found, keep_video=keep_video)
    assert [one.result.frame_index for one in run.frames] == list(small.frames)
    assert [one.result.time_s for one in run.frames] == pytest.approx([frame / 30 for frame in small.frames])
    assert {one.result.object_ids for one in run.frames} == {()}
    assert {one.result.masks.shape for one in run.frames} == {(0, 96, 128)}
    assert all(one.labels == {} for one in run.frames)
    assert all((one.result.video_rgb_hwc is not None) == keep_video for one in run.frames)
    assert run.tracks.objects == ()


@pytest.mark.parametrize("first", [0, 1, 10, 23])
def test_frames_before_the_first_object_are_there_and_every_frame_once(small, first):
    found = [
        FrameDetections(frame, ErringDetector(small, misses=0).find(frame).found if frame >= first else ()) for frame in (0, 1, 10, 23)
    ]
    run = track(small, found, keep_video=True)
    assert [one.result.frame_index for one in run.frames] == list(small.frames)
    assert [one.result.object_ids for one in run.frames] == [()] * first + [(1, 2)] * (24 - first)
    for one, picture in zip(run.frames, small.pictures, strict=True):
        np.testing.assert_array_equal(one.result.video_rgb_hwc, picture)


def test_labels_come_with_every_frame_and_pictures_only_when_asked_for(small):
    left, right = small.boxes(0).values()
    run = track(small, [FrameDetections(0, (Detection(left, 0.9, "cat"), Detection(right, 0.8, "dog")))])
    assert all(one.labels == {1: "cat", 2: "dog"} for one in run.frames)
    assert all(one.result.video_rgb_hwc is None for one in run.frames)
    assert [(known.object_id, known.label, known.tracks) for known in run.tracks.objects] == [(1, "cat", [1]), (2, "dog", [2])]


@pytest.mark.parametrize(
    ("first", "max_frames", "expected"), [(0, 5, 5), (10, 5, 5), (10, 10, 10), (10, 11, 11), (10, 99, 24), (0, None, 24)]
)
def test_max_frames_counts_from_the_clip_s_beginning(small, first, max_frames, expected):
    run = track(small, [ErringDetector(small, misses=0).find(first)], max_frames=max_frames)
    assert [one.result.frame_index for one in run.frames] == list(range(expected))
    assert [bool(one.result.object_ids) for one in run.frames] == [frame >= first for frame in range(expected)]


def test_a_clip_that_ends_early_ends_the_results_there(small):
    read = []

    class Cut(HeldClip):
        def frames(self, **asked):
            read.append(asked.get("start"))
            yield from (frame for frame in super().frames(**asked) if frame.index < 15)

    def run(first):
        clip = HeldClip.of_pictures(small.pictures, size=MODEL.image_size)
        video = Video(OracleTracker(Oracle(small), max_objects=8), Cut(clip.info, clip.held, damage="the clip ends early"))
        frames = list(DetectedTracks(video, [ErringDetector(small).find(first)]).propagate())
        assert video.damage
        return [one.result.frame_index for one in frames]

    assert run(5) == list(range(15))
    assert run(20) == list(range(15))
    assert read == [None, 5, None]  # after the damage nothing is read


def test_a_track_that_ends_on_the_last_frame(small):
    x0, y0, x1, y1 = small.boxes(23)[0]
    twice = Detection(np.array([x0, y0, x1, y1], np.float32), 0.9, "cat"), Detection(np.array([x0, y0, x1, y1 - 9], np.float32), 0.8, "cat")
    run = track(small, [FrameDetections(23, twice)])
    assert [len(one.result.object_ids) for one in run.frames] == [0] * 23 + [1]
    assert len(run.oracle.truth) == 2


def test_a_video_with_prompts_and_a_second_pass_are_refused(small):
    video = Video(OracleTracker(Oracle(small), max_objects=8), HeldClip.of_pictures(small.pictures, size=MODEL.image_size))
    tracks = DetectedTracks(video, [ErringDetector(small).find(0)])
    assert len(list(tracks.propagate())) == 24
    with pytest.raises(PromptError, match="has prompts already: open the clip anew"):
        next(tracks.propagate())
    with pytest.raises(PromptError, match="has prompts already"):
        DetectedTracks(video, [])


@pytest.mark.parametrize(
    ("frames", "message"), [([24], "frame 24, but the clip has frames 0 to 23: they are of another clip"), ([3, 3], "frame 3 twice")]
)
def test_detections_that_do_not_fit_the_clip_are_refused(small, frames, message):
    with pytest.raises(PromptError, match=message):
        track(small, [FrameDetections(frame, ()) for frame in frames])


def test_a_box_outside_the_clip_is_refused(small):
    with pytest.raises(PromptError, match="leaves the frame"):
        track(small, [FrameDetections(0, (Detection(np.array([10, 10, 129, 50], np.float32), 0.9, "cat"),))])


def test_no_thread_and_no_reading_is_left_when_the_results_are_left_early(small):
    closed = []

    class Watched(HeldClip):
        def frames(self, **asked):
            try:
                yield from super().frames(**asked)
            finally:
                closed.append(asked.get("start"))

    clip = HeldClip.of_pictures(small.pictures, size=MODEL.image_size)
    for first in (0, 10):
        video = Video(OracleTracker(Oracle(small), max_objects=8), Watched(clip.info, clip.held))
        results = DetectedTracks(video, [ErringDetector(small).find(first)]).propagate()
        next(results)
        results.close()
    assert len(closed) == 2
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("trt-track")] == []


# Ids


@pytest.mark.parametrize("finds_again", [False, True])
def test_late_entries_leaving_and_coming_back(comings_and_goings, finds_again):
    clip = comings_and_goings
    found = ErringDetector(clip).every(10)
    run = track(clip, found, rules=IdentityRules(max_lost=20), oracle=Oracle(clip, finds_again))
    scores = identity_scores(clip, run)
    assert scores["IDF1"] >= 0.95
    assert scores["IDP"] >= 0.95
    assert scores["IDR"] >= 0.9
    assert [len(ids_of(run, clip, i)) for i in range(5)] == [1] * 5
    assert len(run.tracks.objects) == 5
    back = run.tracks.objects[ids_of(run, clip, 3)[0] - 1]
    assert len(back.tracks) == 2  # it was stopped, and started anew


def test_without_a_look_the_one_that_comes_back_is_a_new_object(comings_and_goings, monkeypatch):
    monkeypatch.setattr("trt_track.runtime.identity.similarity", lambda one, other: 0.0)
    run = track(comings_and_goings, ErringDetector(comings_and_goings).every(10), rules=IdentityRules(max_lost=20))
    assert len(ids_of(run, comings_and_goings, 3)) == 2
    assert len(run.tracks.objects) == 6


@pytest.mark.parametrize("every", [5, 10, 20])
@pytest.mark.parametrize("oracle", [{"finds_again": False}, {"finds_again": True}, {"finds_again": True, "merges": True}])
def test_two_that_cross_keep_their_ids(crossing, every, oracle):
    run = track(crossing, ErringDetector(crossing).every(every), oracle=Oracle(crossing, **oracle))
    assert sorted([*ids_of(run, crossing, 0), *ids_of(run, crossing, 1)]) == [1, 2]
    assert len(run.tracks.objects) == 2
    if "merges" not in oracle:  # the masks between detections are what they are
        assert identity_scores(crossing, run)["IDF1"] >= (0.95 if every <= 10 else 0.85)


@pytest.mark.parametrize("jump", [(0, 1), (1, 0)])
def test_a_track_that_jumps_to_another_object_is_stopped_and_its_object_found_again(small, jump):
    run = track(small, ErringDetector(small, misses=0).every(5), oracle=Oracle(small, jumps={7: jump}))
    ids = [ids_of(run, small, i) for i in range(2)]
    assert sorted(ids[0] + ids[1]) == [1, 2]
    assert [len(one.result.object_ids) for one in run.frames] == [2] * 24
    assert identity_scores(small, run)["IDF1"] == pytest.approx(1 - 3 / 48)  # frames 7, 8 and 9


def test_random_scenes():
    """Objects, occluders, leaving for good or for a while: as the generator draws them."""
    pictures, textures = (
        [random_texture(np.random.default_rng(first + i), side) for i in range(9)] for first, side in ((1, 160), (50, 64))
    )
    style = SceneStyle(size_wh=SIZE_WH, frames=80, objects=(3, 5), leave=0.7, clutter=0.5, scale=(0.15, 0.3))
    scores = []
    for seed in range(8):
        clip = Clip.of(random_scene((99, seed), Material(pictures, textures), style))
        run = track(clip, ErringDetector(clip).every(10), rules=IdentityRules(max_lost=15))
        scores.append(identity_scores(clip, run))
    found = [float(one["IDF1"]) for one in scores]
    pooled = Identity({"PRINT_CONFIG": False}).combine_sequences({str(seed): one for seed, one in enumerate(scores)})
    assert pooled["IDF1"] >= 0.9, found
    assert min(found) >= 0.8, found


@pytest.mark.parametrize(("refresh", "corrected"), [(1.0, [(f, t) for f in (5, 10, 15, 20) for t in (1, 2)]), (0, [])])
def test_a_confirmed_track_is_corrected_with_its_box_and_keeps_its_number(small, refresh, corrected):
    run = track(small, ErringDetector(small, misses=0, doubles=0).every(5), rules=IdentityRules(refresh=refresh))
    assert run.oracle.corrected == corrected
    assert [one.result.frame_index for one in run.frames] == list(small.frames)
    assert [known.tracks for known in run.tracks.objects] == [[1], [2]]


@pytest.mark.parametrize("most", [8, 3])
def test_results_that_are_late_are_the_same(comings_and_goings, crossing, most):
    pictures, textures = ([random_texture(np.random.default_rng(first + i), 64) for i in range(5)] for first in (1, 50))
    style = SceneStyle(size_wh=SIZE_WH, frames=60, objects=(3, 5), leave=0.9, clutter=0.5, scale=(0.15, 0.3))
    clips = [Clip.of(random_scene((98, seed), Material(pictures, textures), style)) for seed in range(4)]
    lost = 0
    for clip in (comings_and_goings, crossing, *clips):
        for every in (3, 10):
            found = ErringDetector(clip).every(every)
            at_once, late = (
                track(clip, found, rules=IdentityRules(max_lost=8), max_objects=most, throughput=throughput) for throughput in (False, True)
            )
            for one, other in zip(at_once.frames, late.frames, strict=True):
                assert (one.result.frame_index, one.result.object_ids) == (other.result.frame_index, other.result.object_ids)
                np.testing.assert_array_equal(one.result.masks, other.result.masks)
            lost += sum(len(tracks) for tracks in late.oracle.computed.values()) > sum(
                len(tracks) for tracks in at_once.oracle.computed.values()
            )
    assert lost  # a track that is lost is computed for one frame more, or nothing would have been late


# Looking back


def first_frames(run: Run, clip: Clip) -> tuple[list[int], list[int]]:
    """Return where each object is in the picture for the first time, and where an id covers it for the first time."""
    there, ours = [], []
    for i in range(len(clip.masks[0])):
        there.append(next(frame for frame in clip.frames if clip.masks[frame][i].any()))
        covered = (
            one.result.frame_index
            for one in run.frames
            if (_ious(clip.masks[one.result.frame_index][i][None], one.result.masks) >= 0.5).any()
        )
        ours.append(next(covered))
    return there, ours


@pytest.mark.parametrize("throughput", [False, True])
@pytest.mark.parametrize("keep_video", [False, True])
def test_what_enters_between_two_detections_is_followed_back_to_where_it_entered(comings_and_goings, throughput, keep_video):
    clip = comings_and_goings
    found = ErringDetector(clip, misses=0).every(20)
    plain = track(clip, found)
    there, late = first_frames(plain, clip)
    assert max(late[i] - there[i] for i in range(5)) > 5
    run = track(clip, found, rules=IdentityRules(look_back=20), throughput=throughput, keep_video=keep_video)
    assert first_frames(run, clip) == (there, there)
    assert [one.result.frame_index for one in run.frames] == list(clip.frames)
    assert all((one.result.video_rgb_hwc is not None) == keep_video for one in run.frames)
    assert all(one.labels.keys() == set(one.result.object_ids) for one in run.frames)
    before, after = identity_scores(clip, plain), identity_scores(clip, run)
    assert after["IDR"] > before["IDR"] + 0.02
    assert after["IDP"] >= before["IDP"]


def test_what_comes_back_is_followed_back_under_its_old_id_and_to_where_it_came_back_only(comings_and_goings):
    run = track(comings_and_goings, ErringDetector(comings_and_goings, misses=0).every(10), rules=IdentityRules(max_lost=10, look_back=60))
    (object_id,) = set(ids_of(run, comings_and_goings, 3))
    for one in run.frames:
        seen = dict(zip(one.result.object_ids, one.result.masks, strict=True)).get(object_id)
        assert (seen is not None and seen.any()) == comings_and_goings.masks[one.result.frame_index][3].any(), one.result.frame_index


@pytest.mark.parametrize("look_back", [1, 3, 7])
def test_nobody_looks_back_further_than_asked(small, look_back):
    found = [FrameDetections(10, ErringDetector(small, misses=0, doubles=0).find(10).found)]
    run = track(small, found, rules=IdentityRules(look_back=look_back))
    assert [bool(one.result.object_ids) for one in run.frames] == [frame >= 10 - look_back for frame in small.frames]


def test_no_more_frames_are_held_than_are_looked_back_at_and_none_where_nothing_is_found_later(small):
    read = []

    class Counted(HeldClip):
        def frames(self, **asked):
            for frame in super().frames(**asked):
                read.append(frame.index)
                yield frame

    for look_back, last in ((6, 20), (6, 0), (0, 20)):
        clip = HeldClip.of_pictures(small.pictures, size=MODEL.image_size)
        video = Video(OracleTracker(Oracle(small), max_objects=8), Counted(clip.info, clip.held))
        found = [ErringDetector(small, misses=0).find(frame) for frame in range(0, last + 1, 5)]
        lags = [read[-1] - one.result.frame_index for one in DetectedTracks(video, found, IdentityRules(look_back=look_back)).propagate()]
        assert max(lags) == (look_back if last else 0)


@pytest.mark.parametrize(("textures", "known"), [((3, 3), True), ((3, 7), False), ((3, 7), True)])
def test_a_track_that_leaves_its_object_on_the_way_back_ends_there(textures, known):
    """It jumps onto another object: one that is in the books and looks the same, or one that is not and has other colours, or both."""
    clip = Clip.of(scene(*(thing(seed, line((x, 50), (0.0, 0.0))) for seed, x in zip(textures, (30, 90), strict=True)), frames=24))
    boxes = clip.boxes(0)
    first = [FrameDetections(0, (Detection(boxes[1], 0.9, "dog"),))] if known else []
    found = [*first, FrameDetections(15, (Detection(boxes[0], 0.9, "cat"),))]
    run = track(clip, found, rules=IdentityRules(look_back=20), oracle=Oracle(clip, jumps={11: (0, 1)}))
    cats = [[i for i in one.result.object_ids if one.labels[i] == "cat"] for one in run.frames]
    assert [bool(ids) for ids in cats] == [frame > 11 for frame in clip.frames]


def test_what_a_mask_had_spread_over_is_followed_back_and_the_mask_without_it(small):
    """From frame 7 on the track of the first covers the second, too, which is found on frame 10 alone; on the way back it does so at 7."""
    first = replace(ErringDetector(small, misses=0, doubles=0).find(0), found=ErringDetector(small, misses=0, doubles=0).find(0).found[:1])
    boxes = small.boxes(0)
    covered = next(i for i in range(2) if box_iou(boxes[i], first.found[0].box_xyxy_px) > 0.5)
    found = [first, ErringDetector(small, misses=0, doubles=0).find(10)]
    oracle = Oracle(small, spreads={7: (covered, 1 - covered)})
    plain, run = (track(small, found, rules=IdentityRules(look_back=look_back), oracle=replace(oracle, truth={})) for look_back in (0, 10))

    def seen(one):
        ious = _ious(small.masks[one.result.frame_index][[covered, 1 - covered]], one.result.masks)
        return sorted((object_id, *(ious[:, row] >= 0.5)) for row, object_id in enumerate(one.result.object_ids))

    both, alone = [(1, True, False), (2, False, True)], [(1, True, False)]
    assert [seen(plain.frames[frame]) == both for frame in (8, 9, 10)] == [False, False, True]
    assert [seen(run.frames[frame]) for frame in (0, 6, 8, 9, 10)] == [alone, alone, both, both, both]
    assert [len(run.frames[frame].result.object_ids) for frame in range(24)] == [1] * 8 + [2] * 16


def test_without_memory_for_a_second_pass_nothing_is_looked_back_at_and_it_is_said_once(comings_and_goings):
    clip = comings_and_goings
    found = ErringDetector(clip, misses=0).every(20)
    plain, run = (track(clip, found, rules=IdentityRules(look_back=look_back), room=1) for look_back in (0, 20))
    for one, other in zip(plain.frames, run.frames, strict=True):
        assert (one.result.frame_index, one.result.object_ids) == (other.result.frame_index, other.result.object_ids)
    (line,) = run.warnings
    assert "objects are not followed back from here on, the GPU's memory is short: 300 MiB" in line


def test_what_is_held_is_not_lost_when_the_clip_cannot_be_read_on(small):
    class Broken(HeldClip):
        def frames(self, **asked):
            for frame in super().frames(**asked):
                if frame.index == 13:
                    raise VideoError("the disk is gone")
                yield frame

    clip = HeldClip.of_pictures(small.pictures, size=MODEL.image_size)
    video = Video(OracleTracker(Oracle(small), max_objects=8), Broken(clip.info, clip.held))
    results = DetectedTracks(video, ErringDetector(small).every(10), IdentityRules(look_back=20)).propagate()
    assert [next(results).result.frame_index for _ in range(13)] == list(range(13))
    with pytest.raises(VideoError, match="the disk is gone"):
        next(results)


# Memory


def test_a_lost_track_is_computed_no_more_and_its_pages_are_freed(comings_and_goings):
    clip = comings_and_goings
    run = track(clip, [ErringDetector(clip, misses=0, doubles=0).find(0)], rules=IdentityRules(max_lost=6))
    gone = next(frame for frame in clip.frames if not clip.masks[frame][3].any())
    lost = ids_of(run, clip, 3)[0]
    (number,) = run.tracks.objects[lost - 1].tracks
    assert [frame for frame in clip.frames if number in run.oracle.computed[frame]] == list(range(gone + 6))
    assert [frame for frame in clip.frames if lost in run.frames[frame].result.object_ids] == list(range(gone + 5))
    each = run.oracle.pages[gone] / 3
    assert each == 8  # the conditioning frame, six past ones and this one
    assert run.oracle.pages[gone + 10] == 2 * each


@pytest.mark.parametrize(("refresh", "most", "pages"), [(1.0, None, 10), (1.0, 2, 9), (1.0, 1, 8), (0.0, None, 8)])
def test_frames_with_detections_are_remembered_and_bounded(small, refresh, most, pages):
    rules = IdentityRules(refresh=refresh)
    run = track(small, ErringDetector(small, misses=0, doubles=0).every(8), rules=rules, max_conditioning=most)
    assert max(run.oracle.pages.values()) == 2 * pages


def test_more_objects_than_fit_the_best_are_tracked_and_it_is_said_once(comings_and_goings):
    clip = comings_and_goings
    run = track(clip, ErringDetector(clip, doubles=0).every(10), rules=IdentityRules(max_lost=20), max_objects=2)
    assert max(len(one.result.object_ids) for one in run.frames) == 2
    assert max(run.oracle.pages.values()) == 2 * 11  # four conditioning frames, six past ones and this one
    assert len(run.warnings) == 1
    assert "1 objects more were found than the 2 that can be tracked" in run.warnings[0]
    assert "raise --max-objects" in run.warnings[0]
    assert [one.result.frame_index for one in run.frames] == list(clip.frames)
    assert len(run.tracks.objects) > 2  # others take the places of those that leave


def test_the_loop_of_the_package_takes_part(small):
    """With the real `Steps`, over a session without a model."""
    with Tracker(FakeSession(), MODEL, max_objects=4) as tracker:
        video = Video(tracker, HeldClip.of_pictures(small.pictures, size=MODEL.image_size))
        frames = list(DetectedTracks(video, ErringDetector(small).every(5)).propagate(keep_logits=True))
    assert [one.result.frame_index for one in frames] == list(small.frames)
    assert all(one.result.logits.shape[0] == len(one.result.object_ids) == len(one.labels) for one in frames)
