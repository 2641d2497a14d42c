"""The embedded model does what tracking means: it notices what leaves and finds it again."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import distance_transform_edt

from trt_track import Tracker
from trt_track.models import PICO_BUNDLE
from trt_track.parity.measures import mask_iou
from trt_track.runtime.held_clip import HeldClip
from trt_track.runtime.results import mask_boxes
from trt_track.runtime.tracker import Video
from trt_track.scenes import Outline, Scene, random_texture
from trt_track.scenes.outline import VERTICES
from trt_track.scenes.path import Path
from trt_track.scenes.scene import Camera, Thing

SIZE = 256


@pytest.fixture(scope="module")
def tracker():
    with Tracker.open(PICO_BUNDLE, backend="onnxruntime-cpu") as opened:
        yield opened


def thing(start, velocity, colour, *, radius=34.0, tracked=True) -> Thing:
    still = np.zeros(5)
    outline = Outline(np.ones(VERTICES), 1.1, still, still, still)
    return Thing(outline, Path(start, velocity, (0, 0), 0, 0, 0.3, 0.02, radius, 0, 0), Image.new("RGB", (64, 64), colour), tracked)


def clip_of(*things: Thing, frames: int) -> tuple[HeldClip, np.ndarray]:
    """Draw a scene over a soft background; return the clip and the masks (T, objects, H, W)."""
    background = random_texture(np.random.default_rng(4), 64).resize((320, 320), Image.Resampling.BICUBIC)
    camera = Camera(Path((128, 128), (0.3, 0), (0, 0), 0, 0, 0, 0, 170, 0, 0), background, False, 3.0, 80)
    drawn = list(Scene((SIZE, SIZE), frames, camera, things).render())
    return HeldClip.of_pictures([frame.frame_rgb for frame in drawn], size=SIZE), np.stack([frame.masks for frame in drawn])


def test_it_says_that_an_object_is_gone_and_that_it_is_back(tracker):
    away = Path((180, 120), (0, 0), (150, 0), 2 * np.pi / 48, 0, 0, 0, 34, 0, 0)
    there_and_back = thing((180, 120), (0, 0), (240, 200, 30))
    clip, truth = clip_of(Thing(there_and_back.outline, away, there_and_back.texture, True), frames=24)
    gone = ~truth[:, 0].any(axis=(1, 2))
    assert gone.any()
    assert not gone[-1]
    video = Video(tracker, clip)
    video.add(object_id=1, box=mask_boxes(truth[0])[0])
    results = list(video.propagate())
    presence = np.array([result.presence[0] for result in results])
    assert (presence[gone] <= 0).mean() > 0.7
    assert presence[-1] > 0
    assert not results[int(np.flatnonzero(gone)[len(np.flatnonzero(gone)) // 2])].masks[0].any()
    assert mask_iou(results[-1].masks[0].astype(bool), truth[-1, 0]) > 0.6


def track(tracker, clip, boxes):
    """Track an object from each box on the first frame."""
    video = Video(tracker, clip)
    for object_id, box in enumerate(boxes, start=1):
        video.add(object_id=object_id, box=box)
    return list(video.propagate())


def test_two_that_cross_keep_their_ids(tracker):
    one = thing((50, 110), (4.0, 0.3), (220, 40, 40), radius=30)
    other = thing((206, 140), (-4.0, -0.2), (40, 200, 60), radius=30)
    clip, truth = clip_of(one, other, frames=40)
    results = track(tracker, clip, mask_boxes(truth[0]))
    shared = np.array(
        [[[mask_iou(mask.astype(bool), real) for real in truth[i]] for mask in result.masks] for i, result in enumerate(results)]
    )
    assert shared[:, [0, 1], [0, 1]].mean() > 0.8
    assert shared[-1, [0, 1], [0, 1]].min() > 0.8
    assert shared[-1, [0, 1], [1, 0]].max() < 0.1


def test_what_is_hidden_in_part_is_tracked_on(tracker):
    walker = thing((60, 128), (4.0, 0), (240, 200, 30))
    stone = thing((140, 165), (0, 0), (90, 90, 90), radius=30, tracked=False)
    clip, truth = clip_of(walker, stone, frames=36)
    areas = truth[:, 0].sum(axis=(1, 2))
    assert areas.min() < 0.75 * areas[0]
    results = track(tracker, clip, mask_boxes(truth[0]))
    ious = [mask_iou(result.masks[0].astype(bool), real[0]) for result, real in zip(results, truth, strict=True)]
    assert np.mean(ious) > 0.85
    assert min(ious) > 0.7


def test_what_is_hidden_is_called_gone(tracker):
    walker = thing((60, 128), (4.0, 0), (220, 40, 40), radius=30)
    wall = thing((150, 128), (0, 0), (90, 90, 90), radius=52, tracked=False)
    clip, truth = clip_of(walker, wall, frames=26)
    hidden = ~truth[:, 0].any(axis=(1, 2))
    assert hidden.sum() >= 5
    presence = np.array([result.presence[0] for result in track(tracker, clip, mask_boxes(truth[0]))])
    assert (presence[hidden] <= 0).mean() > 0.8
    assert (presence[:5] > 0).all()


def test_a_correction_improves_the_mask(tracker):
    one, other = thing((170, 128), (1, 0), (220, 160, 40), radius=40), thing((100, 128), (2, 0), (240, 200, 30), radius=40)
    clip, truth = clip_of(one, other, frames=4)
    video = Video(tracker, clip)
    video.add(object_id=1, points=[(100, 128)])
    ious = []
    for result in video.propagate():
        if result.frame_index != 2:
            continue
        found, real = result.masks[0].astype(bool), truth[2, 1]
        ious.append(mask_iou(found, real))
        if len(ious) == 1:  # click where the mask is wrong, farthest from what is right
            inner = distance_transform_edt(np.pad(found ^ real, 1))[1:-1, 1:-1]
            y, x = np.unravel_index(inner.argmax(), inner.shape)
            video.add(object_id=1, frame=2, points=[(x + 0.5, y + 0.5)], labels=[int(real[y, x])])
    before, after = ious
    assert after > before + 0.1
