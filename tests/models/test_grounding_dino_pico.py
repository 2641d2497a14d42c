"""The embedded text detector, and text to tracks with it: the things of the demonstration are found by their names and stay themselves."""

from __future__ import annotations

import json

import numpy as np
import pytest

from trt_track.cli.demo_clips import draw_clip
from trt_track.engines.bundle import Bundle
from trt_track.errors import PromptError
from trt_track.models import GROUNDING_DINO_PICO_BUNDLE, PICO_BUNDLE
from trt_track.parity.measures import mask_iou
from trt_track.runtime.grounding_dino import GroundingDino, TextQuery
from trt_track.scenes.demonstration import FRAMES, PHRASES, demonstration_scene

TEXT = " ".join(f"{phrase}." for phrase in PHRASES)


def find(text, frame_rgb):
    detector = GroundingDino.open(Bundle.open(GROUNDING_DINO_PICO_BUNDLE), TextQuery(text), backend="onnxruntime-cpu")
    try:
        return detector.detect([frame_rgb])[0]
    finally:
        detector.close()


def box_of(mask):
    ys, xs = np.nonzero(mask)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


@pytest.fixture(scope="module")
def frame():
    return demonstration_scene(None).frame(0)


def test_everything_that_is_named_is_found_where_it_is(frame):
    found = {one.label: one.box_xyxy_px for one in find(TEXT, frame.frame_rgb)}
    assert set(found) == set(PHRASES)
    for number, phrase in enumerate(PHRASES):
        assert np.abs(found[phrase] - box_of(frame.masks[number])).max() < 15


def test_what_is_not_named_is_left_alone(frame):
    assert [one.label for one in find("yellow star.", frame.frame_rgb)] == ["yellow star"]
    assert find("green triangle.", frame.frame_rgb) == ()


def test_words_of_the_real_world_are_refused_with_a_list_of_those_it_knows():
    with pytest.raises(PromptError, match=r"grounding-dino-pico has no token for 'dog': it knows only red, orange, .*, thing$"):
        find("red dog.", np.zeros((64, 64, 3), np.uint8))


@pytest.mark.slow
def test_the_demonstration_from_text_alone(cli, tmp_path):
    """Every named thing by frame 10 at the latest, one id each to the end; the masks are as good as the small tracker's."""
    clip = draw_clip(tmp_path / "scene.mp4", FRAMES, lambda done, total: None)
    done = cli(
        "run", clip.path, "--text", TEXT, "--bundle", PICO_BUNDLE, "--detect-every", 5, "--save", "jsonl,png", "--out", tmp_path / "run"
    )
    assert done.code == 0, done.err
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert sorted(one["label"] for one in run["objects"]) == sorted(PHRASES)
    lines = [json.loads(line) for line in (tmp_path / "run" / "tracks.jsonl").read_text().splitlines()]
    first = {}
    for line in lines:
        for one in line["objects"]:
            first.setdefault(one["label"], line["frame"])
    assert set(first) == set(PHRASES)
    assert max(first.values()) <= 10
    from PIL import Image

    number = {one["label"]: one["id"] for one in run["objects"]}
    ious, ids = [], {phrase: set() for phrase in PHRASES}
    for index, truth in enumerate(clip.truth):
        drawn = np.asarray(Image.open(tmp_path / "run" / "masks" / f"{index:05}.png"))
        for place, phrase in enumerate(PHRASES, start=1):
            if (truth == place).any():
                fits = {object_id: mask_iou(drawn == object_id, truth == place) for object_id in number.values()}
                ious.append(fits[number[phrase]])
                ids[phrase] |= {object_id for object_id, iou in fits.items() if iou >= 0.5}
    assert ids == {phrase: {object_id} for phrase, object_id in number.items()}
    assert all(mask_iou(drawn == number[phrase], truth == place) >= 0.5 for place, phrase in enumerate(PHRASES, start=1))  # to the end
    assert np.mean(ious) > 0.7
