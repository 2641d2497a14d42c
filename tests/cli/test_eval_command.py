"""`trt-track eval`: its table, its files, and what it refuses. That the figures are right is shown in tests/evaluation."""

import json
import shutil

import numpy as np
import pytest
from davis_folder import FRAMES, save_ids, write_davis
from PIL import Image

from trt_track.models import PICO_BUNDLE
from trt_track.scenes.demonstration import demonstration_scene

PICO = ("--bundle", PICO_BUNDLE, "--backend", "onnxruntime-cpu")


@pytest.fixture
def davis(tmp_path):
    return write_davis(tmp_path / "davis")


def test_a_set(cli, davis, tmp_path):
    """Plain discs in plain colours: the small model follows them from masks and boxes, the late one from its first frame on."""
    done = cli(
        *("eval", "--davis", davis, "--set", "2017/val", *PICO, "--prompt", "mask", "--prompt", "box"),
        *("--per-object", "--json", tmp_path / "r.json", "--save", tmp_path / "masks"),
    )
    assert done.code == 0, done.err
    (run,) = json.loads((tmp_path / "r.json").read_text())["runs"]
    assert (run["model"], run["image_size"], run["precision"], run["backend"]) == ("pico", 256, "fp32", "onnxruntime-cpu")
    assert [(one["prompt"], one["frames"], sorted(one["objects"])) for one in run["sequences"]] == [
        ("mask", FRAMES, ["1", "2", "3"]),
        ("box", FRAMES, ["1", "2", "3"]),
    ]
    assert min(one["j_mean"] for one in run["sequences"]) > 0.6
    assert run["means"]["box"]["j_and_f"] == run["sequences"][1]["j_and_f"]
    assert sum(line.split()[:4] == ["pico", "fp32", "mask", "discs"] for line in done.out.splitlines()) == 4  # three objects and all
    saved = np.asarray(Image.open(tmp_path / "masks" / "pico-fp32" / "mask" / "discs" / "00005.png"))
    assert set(np.unique(saved)) <= {0, 1, 2, 3}
    assert 3 in saved


def test_a_clip_with_masks_beside_it(cli, tmp_path):
    scene = demonstration_scene(None)
    for index in range(4):
        frame = scene.frame(index)
        (tmp_path / "frames").mkdir(exist_ok=True)
        Image.fromarray(frame.frame_rgb).save(tmp_path / "frames" / f"{index:05d}.png")
        ids = np.zeros(frame.masks.shape[1:], np.uint8)
        for number, mask in enumerate(frame.masks, start=1):
            ids[mask] = number
        save_ids(tmp_path / "masks" / f"{index:05d}.png", ids)
    done = cli("eval", "--davis", tmp_path, *PICO, "--prompt", "all")
    assert done.code == 0, done.err
    assert [line.split()[2] for line in done.out.splitlines()[1:]] == ["mask", "box", "click"]


def test_bundles_of_one_name_stay_apart(cli, davis, tmp_path):
    """Two recipes of one precision: the table and the saved masks tell them apart by their folders."""
    for name in ("mine", "theirs"):
        shutil.copytree(PICO_BUNDLE, tmp_path / name)
    bundles = ("--bundle", tmp_path / "mine", "--bundle", tmp_path / "theirs", "--backend", "onnxruntime-cpu")
    done = cli("eval", "--davis", davis, "--sequence", "discs", *bundles, "--save", tmp_path / "masks")
    assert done.code == 0, done.err
    rows = [line.split() for line in done.out.splitlines()[1:]]
    assert [row[0] for row in rows] == ["mine", "theirs"]
    assert rows[0][1:-1] == rows[1][1:-1]  # all but frames a second
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["mine", "theirs"]
    again = ("--bundle", tmp_path / "mine", "--bundle", tmp_path / "theirs" / ".." / "mine")
    assert cli("eval", "--davis", davis, *again).error == f"--bundle {tmp_path / 'mine'} is given twice"


def test_what_was_finished_is_kept(cli, davis, tmp_path):
    (davis / "Annotations" / "480p" / "unlisted" / "00002.png").write_bytes(b"no picture")
    done = cli("eval", "--davis", davis, *PICO, "--json", tmp_path / "r.json")
    assert "unlisted/00002.png cannot be read as a mask" in done.error
    assert [line.split()[:4] for line in done.out.splitlines()[1:]] == [["pico", "fp32", "mask", "discs"]]
    (run,) = json.loads((tmp_path / "r.json").read_text())["runs"]
    assert [one["sequence"] for one in run["sequences"]] == ["discs"]


def break_frames(kind, frames):
    if kind == "frame":
        (frames / "00005.jpg").write_bytes((frames / "00005.jpg").read_bytes()[:900])
    elif kind == "frames":
        shutil.rmtree(frames)


def break_masks(kind, masks):
    if kind == "damaged":
        (masks / "00002.png").write_bytes(b"no picture")
    elif kind == "colour":
        Image.new("RGB", (128, 96)).save(masks / "00002.png")
    elif kind == "size":
        save_ids(masks / "00002.png", np.ones((48, 64), np.uint8))
    elif kind == "empty":
        for path in masks.glob("*.png"):
            save_ids(path, np.zeros((96, 128), np.uint8))
    elif kind == "last":
        save_ids(masks / "00007.png", np.full((96, 128), 5, np.uint8))
    elif kind == "more":
        shutil.copy(masks / "00007.png", masks / "00008.png")
    elif kind == "masks":
        shutil.rmtree(masks)
        masks.mkdir()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("damaged", "00002.png cannot be read as a mask: "),
        ("colour", "00002.png is no mask: expected a palette image or a grey one of 8 bits, got uint8[96, 128, 3]"),
        ("size", "00002.png has 64 x 48 pixels, its frames 128 x 96"),
        ("empty", "discs: its annotations show no object"),
        ("last", "discs: object 5 has no annotated frame between its first one and the sequence's last"),
        ("more", "00008.png: no frame of that number is in "),
        ("frame", "discs: the clip ends early: frame 5 of 8 cannot be read (00005.jpg"),
        ("frames", "discs is missing"),
        ("masks", "discs holds no masks; expected files like 00000.png"),
    ],
)
def test_damaged_folders_are_refused(cli, davis, kind, message):
    break_frames(kind, davis / "JPEGImages" / "480p" / "discs")
    break_masks(kind, davis / "Annotations" / "480p" / "discs")
    done = cli("eval", "--davis", davis, "--set", "2017/val", *PICO)
    assert message in done.error
    assert done.out == ""  # no score of what could be read


def test_more_masks_than_a_clip_has_frames(cli, carphone, tmp_path):
    shutil.copy(carphone, tmp_path / "clip.mp4")
    for frame in (0, 1, 120):
        save_ids(tmp_path / "masks" / f"{frame:05d}.png", np.ones((144, 176), np.uint8))
    assert "00120.png: " in (error := cli("eval", "--davis", tmp_path, *PICO).error)
    assert error.endswith("clip.mp4 has 120 frames only")


def test_options_that_make_no_sense(cli, davis):
    assert cli("eval", "--davis", davis, *PICO, "--prompt", "scribble").error == "--prompt scribble: choose from mask, box, click and all"
    error = cli("eval", "--davis", davis, *PICO, "--max-objects", 1).error
    assert error == "frame 0: more than 1 objects at once: raise --max-objects (max_objects in Python)"
