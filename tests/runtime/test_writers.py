import json
from fractions import Fraction

import av
import numpy as np
import pytest
from clip_maker import picture
from PIL import Image
from pycocotools import mask as coco_mask

from trt_track.errors import OutputError
from trt_track.runtime.jsonl import JsonlWriter
from trt_track.runtime.mask_images import MaskImageWriter, check_ids
from trt_track.runtime.overlay import OverlayStyle, draw_overlay
from trt_track.runtime.overlay_video import OverlayVideoWriter
from trt_track.runtime.palette import davis_palette, object_color
from trt_track.runtime.results import FrameResult


def result(index=0, *, ids=(1, 2), size_wh=(96, 64), time_s=None, shade=None):
    width, height = size_wh
    masks = np.zeros((len(ids), height, width), bool)
    for position, mask in enumerate(masks):
        mask[10 + position : 40, 5 + 15 * position : 30 + 15 * position] = True
    image = picture(index, width, height) if shade is None else np.full((height, width, 3), shade, np.uint8)
    ones = np.ones(len(ids), np.float32)
    return FrameResult(index, index / 25 if time_s is None else time_s, ids, masks, ones * 0.9, ones * 50, None, image)


# Colours


def test_davis_palette_is_the_published_one():
    palette = davis_palette()
    assert palette[:9].tolist() == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128], [0, 128, 128], [128, 128, 128], [64, 0, 0],
    ]  # fmt: skip
    assert palette[255].tolist() == [224, 224, 192]
    assert len(np.unique(palette, axis=0)) == 256


def test_overlay_colors_are_far_apart():
    colors = np.array([object_color(object_id) for object_id in range(1, 9)], float)
    distances = np.linalg.norm(colors[:, None] - colors[None], axis=-1)
    assert distances[~np.eye(8, dtype=bool)].min() > 50


# Overlay


@pytest.mark.parametrize("size_wh", [(96, 64), (432, 240), (1280, 720)])
def test_overlay_tints_masks_and_nothing_else(size_wh):
    plain = result(size_wh=size_wh)
    drawn = draw_overlay(plain, OverlayStyle(labels=False))
    inside = plain.masks.any(axis=0)
    np.testing.assert_array_equal(drawn[~inside], plain.video_rgb_hwc[~inside])
    assert (drawn[inside] != plain.video_rgb_hwc[inside]).any(axis=-1).all()
    assert plain.video_rgb_hwc is not drawn


def test_tint_is_the_stated_share():
    drawn = draw_overlay(result(ids=(1,), shade=100), OverlayStyle(tint=0.5, outline=False, labels=False))
    expected = [(100 + value) / 2 for value in object_color(1)]
    np.testing.assert_allclose(drawn[20, 20], expected, atol=1.5)


@pytest.mark.parametrize("style", [OverlayStyle(boxes=True), OverlayStyle(names={1: "a name much longer than this frame is wide"})])
def test_overlay_at_the_frames_edges(style):
    masks = np.zeros((3, 20, 30), np.uint8)
    masks[0] = 1
    masks[1, 19, 29] = 1
    ones = np.ones(3, np.float32)
    frame = FrameResult(0, 0.0, (1, 2, 3), masks, ones, ones, None, np.zeros((20, 30, 3), np.uint8))
    assert draw_overlay(frame, style).shape == (20, 30, 3)


def test_overlay_without_objects_is_the_frame():
    empty = result(ids=())
    np.testing.assert_array_equal(draw_overlay(empty), empty.video_rgb_hwc)


# tracks.jsonl


def test_jsonl_holds_masks_boxes_and_scores(tmp_path):
    frame = result(4, ids=(3, 9))
    with JsonlWriter(tmp_path / "tracks.jsonl") as writer:
        writer.write(frame)
        first = json.loads((tmp_path / "tracks.jsonl").read_text())  # before it is closed
    assert (first["frame"], first["time_s"]) == (4, 0.16)
    assert [entry["id"] for entry in first["objects"]] == [3, 9]
    assert first["objects"][0]["box"] == [5, 10, 30, 40]
    assert first["objects"][0]["score"] == 0.9
    for entry, mask in zip(first["objects"], frame.masks, strict=True):
        np.testing.assert_array_equal(coco_mask.decode(entry["segmentation"]), mask)


def test_jsonl_leaves_out_empty_masks(tmp_path):
    masks = np.zeros((1, 4, 4), bool)
    one = np.ones(1, np.float32)
    with JsonlWriter(tmp_path / "tracks.jsonl") as writer:
        writer.write(FrameResult(0, 0.0, (1,), masks, one, one))
        writer.write(FrameResult(1, 0.1, (), masks[:0], one[:0], one[:0]))
    lines = (tmp_path / "tracks.jsonl").read_text().splitlines()
    assert [json.loads(line)["objects"] for line in lines] == [[], []]


# masks/*.png


def test_mask_images_are_palette_images(tmp_path):
    frame = result(7, ids=(200, 3))
    with MaskImageWriter(tmp_path / "masks") as writer:
        writer.write(frame)
    image = Image.open(tmp_path / "masks/00007.png")
    assert image.mode == "P"
    assert image.getpalette() == davis_palette().ravel().tolist()
    pixels = np.array(image)
    np.testing.assert_array_equal(pixels == 3, frame.masks[1])  # the later one holds
    np.testing.assert_array_equal(pixels == 200, frame.masks[0] & ~frame.masks[1])
    assert [file.name for file in (tmp_path / "masks").iterdir()] == ["00007.png"]


def test_objects_that_a_palette_cannot_hold_are_left_out_and_it_is_said_once(tmp_path, caplog):
    with MaskImageWriter(tmp_path / "masks") as writer:
        for index, ids in enumerate([(), (255, 1), (3, 256), (900, 1000)]):
            writer.write(result(index, ids=ids))
    (told,) = caplog.messages
    assert told.startswith("frame 2: object 256 is left out of the mask images")
    values = [set(np.unique(Image.open(tmp_path / "masks" / f"{index:05d}.png")).tolist()) for index in range(4)]
    assert values == [{0}, {0, 1, 255}, {0, 3}, {0}]


@pytest.mark.parametrize("object_id", [256, 0])
def test_ids_that_a_palette_cannot_hold_are_refused_where_they_are_known_before(object_id):
    with pytest.raises(OutputError, match=r"from 1 to 255.*save jsonl"):
        check_ids((1, object_id))


# tracked.mp4


def frames_of(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return stream.average_rate, [(float(f.pts * stream.time_base), f.to_ndarray(format="rgb24")) for f in container.decode(stream)]


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30000, 1001), Fraction(24000, 1001), Fraction(15)])
def test_video_keeps_rate_and_pictures(tmp_path, rate):
    with OverlayVideoWriter(tmp_path / "t.mp4", frame_rate=rate) as writer:
        for index in range(40):
            writer.write(result(index, time_s=float(index / rate)))
    got_rate, frames = frames_of(tmp_path / "t.mp4")
    assert got_rate == rate
    assert [time for time, _ in frames] == pytest.approx([float(index / rate) for index in range(40)], abs=1e-4)
    assert np.abs(frames[20][1].astype(int) - draw_overlay(result(20))).mean() < 12


def test_video_keeps_variable_times(tmp_path):
    times = [0, 0.04, 0.12, 0.14, 0.5, 0.52]
    with OverlayVideoWriter(tmp_path / "t.mp4", frame_rate=Fraction(20)) as writer:
        for index, time_s in enumerate(times):
            writer.write(result(index, time_s=time_s))
    assert [time for time, _ in frames_of(tmp_path / "t.mp4")[1]] == pytest.approx(times, abs=1e-4)


def test_video_of_a_track_in_reverse_goes_on(tmp_path):
    with OverlayVideoWriter(tmp_path / "t.mp4", frame_rate=Fraction(25)) as writer:
        for index in (5, 4, 3):
            writer.write(result(index))
    times = [time for time, _ in frames_of(tmp_path / "t.mp4")[1]]
    assert np.diff(times) == pytest.approx([0.04, 0.04])


def test_a_frame_tracked_anew_replaces_itself(tmp_path):
    with OverlayVideoWriter(tmp_path / "t.mp4", frame_rate=Fraction(25)) as writer:
        for index, shade in ((0, 10), (1, 10), (1, 250), (2, 10)):
            writer.write(result(index, ids=(), shade=shade))
    assert [round(image.mean(), -1) for _, image in frames_of(tmp_path / "t.mp4")[1]] == [10, 250, 10]


@pytest.mark.parametrize("size_wh", [(95, 63), (96, 63), (64, 64)])
def test_odd_sizes_grow_by_a_copied_pixel(tmp_path, size_wh):
    with OverlayVideoWriter(tmp_path / "t.mp4", frame_rate=Fraction(25)) as writer:
        writer.write(result(size_wh=size_wh, ids=(), shade=200))
    image = frames_of(tmp_path / "t.mp4")[1][0][1]
    assert image.shape[:2] == (size_wh[1] + size_wh[1] % 2, size_wh[0] + size_wh[0] % 2)
    assert abs(int(image[-1, -1, 0]) - 200) < 6


def test_video_needs_frames(tmp_path):
    bare = FrameResult(0, 0.0, (), np.zeros((0, 4, 4), bool), np.zeros(0, np.float32), np.zeros(0, np.float32))
    with OverlayVideoWriter(tmp_path / "t.mp4", frame_rate=Fraction(25)) as writer, pytest.raises(OutputError, match="keep_video=True"):
        writer.write(bare)
    assert not (tmp_path / "t.mp4").exists()
