"""Prompts: reading, joining, refusing, and bringing them into the model's square."""

import json
import platform

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trt_track.errors import PromptError
from trt_track.runtime.mask_resize import _resize_rows
from trt_track.runtime.prompts import (
    Prompt,
    check_prompts,
    mask_to_model,
    merge_prompts,
    model_clicks,
    parse_box,
    parse_mask,
    parse_point,
    read_mask,
    read_prompts,
)

CLIP = {"width": 640, "height": 272, "frame_count": 50}


def click(x=10.0, y=20.0, *, label=1, frame=0, object_id=1):
    return Prompt(frame, object_id, np.array([[x, y]], np.float32), np.array([label], np.int32))


def box(*corners, frame=0, object_id=1):
    return Prompt(frame, object_id, box_xyxy_px=np.array(corners or (1, 2, 30, 40), np.float32))


def masked(mask=None, *, frame=0, object_id=1):
    mask = np.ones((CLIP["height"], CLIP["width"]), bool) if mask is None else mask
    return Prompt(frame, object_id, mask=mask)


def removed(frame, object_id=1):
    return Prompt(frame, object_id, remove=True)


@pytest.mark.parametrize(
    ("text", "frame", "object_id", "corners"),
    [
        ("1:100,50,300,400", 0, 1, [100, 50, 300, 400]),
        ("12@3:0,0,1.5,2e1", 12, 3, [0, 0, 1.5, 20]),
        (" 7:1, 2, 3, 4 ", 0, 7, [1, 2, 3, 4]),
    ],
)
def test_parse_box(text, frame, object_id, corners):
    prompt = parse_box(text)
    assert (prompt.frame, prompt.object_id) == (frame, object_id)
    assert prompt.box_xyxy_px.dtype == np.float32
    assert prompt.box_xyxy_px.tolist() == corners
    assert not len(prompt.points_xy_px)


@pytest.mark.parametrize(
    ("text", "frame", "point", "label"), [("2:480,270", 0, [480, 270], 1), ("5@2:1.5,2,0", 5, [1.5, 2], 0), ("2:1,2,1", 0, [1, 2], 1)]
)
def test_parse_point(text, frame, point, label):
    prompt = parse_point(text)
    assert (prompt.frame, prompt.object_id) == (frame, 2)
    assert prompt.points_xy_px.tolist() == [point]
    assert prompt.labels.tolist() == [label]
    assert prompt.labels.dtype == np.int32


@pytest.mark.parametrize(
    ("parse", "text", "says"),
    [
        (parse_box, "", "not of the form"),
        (parse_box, "100,50,300,400", "not of the form"),
        (parse_box, "a:1,2,3,4", "not of the form"),
        (parse_box, "-1:1,2,3,4", "not of the form"),
        (parse_box, "@1:1,2,3,4", "not of the form"),
        (parse_box, "1:1,2,3", "expected 4 numbers"),
        (parse_box, "1:1,2,3,x", "expected 4 numbers"),
        (parse_box, "1:1,2,3,4,5", "expected 4 numbers"),
        (parse_point, "1:4", "expected 2 or 3 numbers"),
        (parse_point, "1:4,5,2", "1 .inside the object. or 0"),
        (parse_mask, "1:", "not of the form"),
        (parse_mask, "1:nowhere.png", "does not exist"),
    ],
)
def test_text_of_another_form_is_refused(parse, text, says):
    with pytest.raises(PromptError, match=says) as refusal:
        parse(text)
    assert "\n" not in str(refusal.value)


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused(text):
    for parse in (parse_box, parse_point):
        try:
            parse(text)
        except PromptError:
            continue


def test_masks_from_files(tmp_path):
    gray = np.zeros((4, 6), np.uint8)
    gray[1, 2] = 3
    Image.fromarray(gray).save(tmp_path / "a:b@c.png")
    prompt = parse_mask(f"4@2:{tmp_path}/a:b@c.png")
    assert (prompt.frame, prompt.object_id) == (4, 2)
    assert prompt.mask.dtype == bool
    assert np.argwhere(prompt.mask).tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("mode", "values", "object_id", "marked"),
    [
        ("P", [0, 1, 2, 2], 2, [2, 3]),
        ("P", [0, 5, 5, 0], 1, [1, 2]),
        ("P", [0, 0, 0, 0], 1, []),
        ("L", [0, 1, 2, 255], 2, [1, 2, 3]),
        ("1", [0, 255, 0, 255], 2, [1, 3]),
        ("I;16", [0, 300, 0, 0], 1, [1]),
        ("RGB", [0, 255, 0, 0], 1, [1]),
    ],
)
def test_pixels_that_a_mask_marks(tmp_path, mode, values, object_id, marked):
    row = np.array([values])
    if mode == "P":
        image = Image.fromarray(row.astype(np.uint8), "L").convert("P")
        image.putdata(values)
    elif mode == "I;16":
        image = Image.fromarray(row.astype(np.uint16))
    else:
        image = Image.fromarray(row.astype(np.uint8)).convert(mode)
    image.save(tmp_path / "mask.png")
    assert np.flatnonzero(read_mask(tmp_path / "mask.png", object_id)).tolist() == marked


def test_mask_files_that_cannot_be_used(tmp_path):
    palette = Image.new("P", (4, 1))
    palette.putpalette(list(range(30)))
    palette.putdata([0, 1, 2, 2])
    palette.save(tmp_path / "palette.png")
    with pytest.raises(PromptError, match="objects 1, 2 but no 3"):
        read_mask(tmp_path / "palette.png", 3)
    Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / "colour.png")
    with pytest.raises(PromptError, match="colour image"):
        read_mask(tmp_path / "colour.png", 1)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(PromptError, match="cannot be read"):
        read_mask(tmp_path / "text.png", 1)
    whole = (tmp_path / "palette.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PromptError, match="cannot be read"):
        read_mask(tmp_path / "cut.png", 1)
    with pytest.raises(PromptError, match="cannot be read"):
        read_mask(tmp_path, 1)


def test_read_prompts(tmp_path):
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.eye(3, dtype=np.uint8)).save(tmp_path / "masks" / "m.png")
    entries = [
        {"object": 1, "box": [1, 2, 3, 4.5], "points": [[5, 6], [7, 8]], "labels": [1, 0]},
        {"frame": 3, "object": 2, "points": [[5, 6]]},
        {"object": 3, "mask": "masks/m.png"},
        {"frame": 9, "object": 1, "remove": True},
    ]
    (tmp_path / "p.json").write_text(json.dumps({"prompts": entries}))
    first, second, third, last = read_prompts(tmp_path / "p.json")
    assert first.box_xyxy_px.tolist() == [1, 2, 3, 4.5]
    assert first.labels.tolist() == [1, 0]
    assert (second.frame, second.labels.tolist()) == (3, [1])
    assert third.mask.tolist() == np.eye(3).astype(bool).tolist()
    assert last.remove
    assert not last.click_count


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "no JSON"),
        ("[]", "must be"),
        ('{"prompts": {}}', "must be"),
        ('{"prompts": [3]}', "prompt 1"),
        ('{"prompts": [{"frame": 0}]}', "prompt 1.*object"),
        ('{"prompts": [{"object": 1, "point": [1, 2]}]}', "unknown key 'point'"),
        ('{"prompts": [{"object": 1, "points": [1, 2]}]}', "points must be"),
        ('{"prompts": [{"object": 1, "points": [[1, 2]], "labels": [1, 0]}]}', "as many labels"),
        ('{"prompts": [{"object": 1, "points": [[1, 2]], "labels": [2]}]}', "labels must be"),
        ('{"prompts": [{"object": true, "box": [1, 2, 3, 4]}]}', "object must be"),
        ('{"prompts": [{"object": 1, "box": [1, 2, 3]}]}', "box must be"),
        ('{"prompts": [{"object": 1, "mask": "none.png"}]}', "prompt 1: mask .*none.png does not exist"),
        ('{"prompts": [{"object": 1, "remove": 1}]}', "remove must be"),
    ],
)
def test_prompt_files_of_another_form_are_refused(tmp_path, content, says):
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(PromptError, match=says):
        read_prompts(tmp_path / "p.json")


def test_a_missing_prompt_file_is_refused(tmp_path):
    with pytest.raises(PromptError, match="cannot read prompts"):
        read_prompts(tmp_path / "none.json")


def test_nothing_merges_to_nothing():
    assert merge_prompts([]) == []


def test_clicks_and_box_of_one_object_on_one_frame_become_one_prompt():
    merged = merge_prompts([click(1, 2), click(3, 4, object_id=2), box(), click(5, 6, label=0), click(7, 8, frame=1)])
    assert [(p.frame, p.object_id) for p in merged] == [(0, 1), (0, 2), (1, 1)]
    assert merged[0].points_xy_px.tolist() == [[1, 2], [5, 6]]
    assert merged[0].labels.tolist() == [1, 0]
    assert merged[0].box_xyxy_px.tolist() == [1, 2, 30, 40]
    assert merged[0].click_count == 4


def test_model_clicks_are_upstreams():
    prompt = merge_prompts([click(33.3, 7.7), box(1, 2, 30, 40), click(5, 6, label=0)])[0]
    points, labels = model_clicks(prompt, width=640, height=272, size=1024)
    video = torch.tensor([[1, 2], [30, 40], [33.3, 7.7], [5, 6]], dtype=torch.float32)
    assert labels.tolist() == [2, 3, 1, 0]
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(points, (video / torch.tensor([640, 272]) * 1024).numpy(), strict=True)


@pytest.mark.parametrize(
    "prompts",
    [
        [box()],
        [box(0, 0, 640, 272)],
        [click(639.9, 271.9)],
        [masked()],
        [click(), click(label=0), click(label=0, frame=3), removed(49)],
        [click(label=0, frame=9), click(frame=2)],
        [box(), click(frame=4, object_id=2), removed(3)],
    ],
)
def test_prompts_that_make_sense(prompts):
    check_prompts(prompts, **CLIP)
    check_prompts(merge_prompts(prompts), **CLIP)


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ([], "nothing to track"),
        ([Prompt(0, 1)], "object 1 on frame 0 says nothing"),
        ([click(object_id=0)], "ids start at 1"),
        ([click(frame=50)], "50 frames, numbered 0 to 49"),
        ([click(frame=-1)], "50 frames"),
        ([click(640, 1)], "click 640,1 lies outside the frame of 640x272"),
        ([click(-0.1, 1)], "outside"),
        ([click(1, 272)], "outside"),
        ([click(float("nan"), 1)], "outside"),
        ([click(1, float("inf"))], "outside"),
        ([box(1, 2, float("nan"), 4)], "no number"),
        ([box(1, 2, float("inf"), 4)], "no number"),
        ([box(30, 2, 1, 40)], "corners swapped"),
        ([box(1, 40, 30, 2)], "corners swapped"),
        ([box(1, 2, 1, 40)], "no area"),
        ([box(1, 2, 641, 40)], "leaves the frame"),
        ([box(-1, 2, 30, 40)], "leaves the frame"),
        ([box(), box(1, 2, 3, 4)], "2 boxes"),
        ([masked(), masked()], "2 masks"),
        ([masked(), click()], "a mask and clicks"),
        ([masked(), box()], "a mask and clicks"),
        ([masked(np.ones((640, 272), bool))], "272x640 pixels, the clip 640x272"),
        ([masked(np.zeros((272, 640), bool))], "mask is empty"),
        ([click(label=0)], "only negative clicks"),
        ([click(label=0), box(frame=1)], "only negative clicks"),
        ([removed(3)], "before anything started it"),
        ([click(frame=5), removed(3)], "before anything started it"),
        ([click(), removed(0)], "prompted and removed at once"),
        ([click(), removed(3), click(frame=5)], "frame 5: it was removed on frame 3"),
        ([click(), removed(3), removed(6)], "it was removed on frame 3"),
        ([click() for _ in range(17)], "17 clicks"),
        ([box(), *(click() for _ in range(15))], "17 clicks"),
    ],
)
def test_prompts_that_make_no_sense(prompts, says):
    with pytest.raises(PromptError, match=says) as refusal:
        check_prompts(prompts, **CLIP)
    assert "\n" not in str(refusal.value)


def test_backwards_a_later_frame_comes_first():
    story = [click(frame=9), click(label=0, frame=3), removed(1)]
    check_prompts(story, **CLIP, reverse=True)
    with pytest.raises(PromptError, match="before anything started it"):
        check_prompts(story, **CLIP)
    with pytest.raises(PromptError, match=r"only negative clicks \(tracking runs backwards\)"):
        check_prompts([click(), click(label=0, frame=3)], **CLIP, reverse=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"points_xy_px": [1.0, 2.0]},
        {"points_xy_px": [[1.0, 2.0]], "labels": []},
        {"points_xy_px": [[1.0, 2.0]], "labels": [2]},
        {"points_xy_px": [[1.0], [2.0, 3.0]], "labels": [1, 1]},
        {"points_xy_px": [["a", "b"]], "labels": [1]},
        {"box_xyxy_px": [1.0, 2.0, 3.0]},
        {"mask": [True]},
    ],
)
def test_a_prompt_checks_its_arrays(wrong):
    with pytest.raises(PromptError, match="object 1 on frame 0"):
        Prompt(0, 1, **wrong)


def torch_resize(values, size):
    image = torch.from_numpy(values)[None, None]
    return torch.nn.functional.interpolate(image, size=(size, size), mode="bilinear", antialias=True, align_corners=False)[0, 0].numpy()


def draw_mask(kind, shape, seed):
    rng = np.random.default_rng(seed)
    if kind == "noise":
        return rng.random(shape) > 0.5
    mask = np.zeros(shape, bool)
    for _ in range(4):
        y, x = rng.integers(0, shape[0]), rng.integers(0, shape[1])
        mask[y : y + rng.integers(1, shape[0] + 1), x : x + rng.integers(1, shape[1] + 1)] ^= True
    mask[shape[0] // 3 : shape[0] // 3 + shape[0] // 2 + 1, : shape[1] // 2 + 1] = True
    return mask


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["noise", "rectangles"]),
    st.tuples(st.integers(1, 400), st.integers(1, 400)) | st.sampled_from([(128, 128), (256, 256), (512, 128), (384, 192), (320, 96)]),
    st.sampled_from([64, 128, 256, 320]),
    st.integers(0, 9),
)
def test_masks_are_resized_as_upstream_does(kind, shape, size, seed):
    mask = draw_mask(kind, shape, seed)
    reference = torch_resize(mask.astype(np.float32), size)
    if not (reference >= 0.5).any():
        return
    ours = mask_to_model(mask, size)
    assert ours.dtype == np.uint8
    assert ours.shape == (size, size)
    differs = ours.astype(bool) != (reference >= 0.5)
    assert np.abs(reference[differs] - 0.5).max(initial=0) < 1e-6
    if platform.machine() == "x86_64":  # the sums are rounded as that build of PyTorch rounds them
        assert not differs.any()


@pytest.mark.parametrize(("rows", "size"), [(256, 64), (700, 256), (100, 256), (1280, 320), (64, 64)])
def test_values_are_resized_as_pytorch_does(rows, size):
    values = np.random.default_rng(0).random((rows, size), np.float32)
    np.testing.assert_allclose(_resize_rows(values, size), torch_resize(values, size), rtol=0, atol=1e-6)


def test_a_mask_that_vanishes_is_refused():
    mask = np.zeros((1080, 1920), bool)
    mask[500, 900] = True
    with pytest.raises(PromptError, match="1 pixels of 1920x1080 and vanishes at the model's 256x256"):
        mask_to_model(mask, 256)
