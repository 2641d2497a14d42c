"""The embedded model does what tracking means: it notices what leaves and finds it again."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

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
