"""J and F of sequences in DAVIS form: what trackeval's own evaluation says of the same masks, and what is refused."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from trackeval import Evaluator
from trackeval.datasets import DAVIS
from trackeval.metrics import JAndF

from trt_track.errors import VideoError
from trt_track.evaluation.boundary import boundary_f, encoded, f_of_frames, j_of_frames
from trt_track.evaluation.evaluate import object_map, prompt_of
from trt_track.evaluation.scores import Score, score_object
from trt_track.evaluation.sequences import find_sequences
from trt_track.models import PICO_BUNDLE
from trt_track.runtime.palette import davis_palette
from trt_track.scenes.demonstration import demonstration_scene

FRAMES = 8
COLOURS = {1: (220, 40, 40), 2: (40, 200, 60), 3: (240, 220, 40)}


def save_ids(path, ids):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids)
    image.putpalette(davis_palette().tobytes())
    image.save(path)


def disc(x, y, radius, size=(96, 128)):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def annotation(frame, *, late=3):
    """Two discs that move and, from frame `late` on, a third one; a void rim around the first."""
    ids = np.zeros((96, 128), np.uint8)
    ids[disc(30 + 2 * frame, 40, 17)] = 255
    ids[disc(30 + 2 * frame, 40, 15)] = 1
    ids[disc(90 - frame, 60, 12)] = 2
    if frame >= late:
        ids[disc(60, 80, 9)] = 3
    return ids


@pytest.fixture
def davis(tmp_path):
    """A folder in DAVIS form with the sequence `discs` and an unlisted one."""
    for frame in range(FRAMES):
        ids = annotation(frame)
        picture = np.full((96, 128, 3), 120, np.uint8)
        for number, colour in COLOURS.items():
            picture[ids == number] = colour
        for name in ("discs", "unlisted"):
            (tmp_path / "JPEGImages" / "480p" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(tmp_path / "JPEGImages" / "480p" / name / f"{frame:05d}.jpg", quality=95)
            save_ids(tmp_path / "Annotations" / "480p" / name / f"{frame:05d}.png", ids)
    (tmp_path / "ImageSets" / "2017").mkdir(parents=True)
    (tmp_path / "ImageSets" / "2017" / "val.txt").write_text("discs\n\n")
    return tmp_path


def by_trackeval(root, truth, found):
    """Score masks with trackeval's own reading of DAVIS's folders."""
    for frame, (wanted, got) in enumerate(zip(truth, found, strict=True)):
        save_ids(root / "gt" / "discs" / f"{frame:05d}.png", wanted)
        save_ids(root / "trackers" / "ours" / "data" / "discs" / f"{frame:05d}.png", got)
    quiet = {"PRINT_CONFIG": False, "PRINT_RESULTS": False, "OUTPUT_SUMMARY": False, "OUTPUT_DETAILED": False, "PLOT_CURVES": False}
    dataset = DAVIS({"GT_FOLDER": str(root / "gt"), "TRACKERS_FOLDER": str(root / "trackers"), "PRINT_CONFIG": False})
    evaluator = Evaluator({**quiet, "TIME_PROGRESS": False, "LOG_ON_ERROR": None, "BREAK_ON_ERROR": True, "USE_PARALLEL": False})
    results, _ = evaluator.evaluate([dataset], [JAndF()])
    return results["DAVIS"]["ours"]["COMBINED_SEQ"]["general"]["JAndF"]


@pytest.mark.filterwarnings("ignore")
def test_scores_are_those_of_trackevals_own_evaluation(tmp_path, capsys):
    random = np.random.default_rng(2)
    truth = [annotation(frame, late=0) for frame in range(9)]
    found = []
    for frame, ids in enumerate(truth):
        shifted = np.roll(np.where(ids == 255, 0, ids), (frame % 3, random.integers(-3, 4)), axis=(0, 1))
        shifted[:, : 4 * frame] = 0
        found.append(shifted)
    wanted = by_trackeval(tmp_path, truth, found)
    capsys.readouterr()
    scores = []
    for number in (1, 2, 3):
        pairs = [(encoded((got == number) & (ids != 255)), encoded(ids == number)) for got, ids in zip(found, truth, strict=True)]
        scores.append(score_object(*map(list, zip(*pairs, strict=True))))
    ours = Score.mean(scores)
    names = ("J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")
    assert [ours.j_mean, ours.j_recall, ours.j_decay, ours.f_mean, ours.f_recall, ours.f_decay] == pytest.approx([wanted[n] for n in names])
    assert ours.j_and_f == pytest.approx(wanted["J&F"])
    assert 0.3 < ours.j_mean < 0.95


def test_measures_at_their_ends():
    one, other, none = disc(40, 40, 20), disc(100, 40, 20), np.zeros((96, 128), bool)
    assert boundary_f(one, one) == boundary_f(none, none) == 1
    assert boundary_f(one, other) == boundary_f(one, none) == boundary_f(none, one) == 0
    assert boundary_f(one, np.roll(one, 1, axis=1)) == 1  # within 0.8 % of the diagonal
    assert 0 < boundary_f(one, disc(40, 40, 23)) < boundary_f(one, disc(40, 40, 21)) + 1e-9
    pairs = [(encoded(one), encoded(one)), (encoded(one), encoded(none)), (encoded(none), encoded(none))]
    found, truth = map(list, zip(*pairs, strict=True))
    assert j_of_frames(found, truth).tolist() == f_of_frames(found, truth).tolist() == [1, 0, 1]


def test_decay_counts_frames_beyond_255():
    j = np.concatenate([np.ones(300), np.zeros(100)])
    assert Score.of_frames(j, j).j_decay == pytest.approx(1.0, abs=0.02)


def test_prompts_from_a_mask():
    mask = disc(50, 30, 10)
    mask[30, 60:70] = True  # a spike that a click must not be on
    assert prompt_of(mask, "mask")["mask"] is mask
    assert prompt_of(mask, "box") == {"box": (40, 20, 70, 41)}
    ((x, y),) = prompt_of(mask, "click")["points"]
    assert abs(x - 50) <= 1
    assert abs(y - 30) <= 1
    corner = np.zeros((20, 20), bool)
    corner[:5, :5] = True
    assert prompt_of(corner, "click")["points"] == [(2.0, 2.0)]  # the frame's border is a border
    with pytest.raises(ValueError, match="prompt 'scribble' is unknown"):
        prompt_of(mask, "scribble")


def test_a_disputed_pixel_goes_to_the_larger_logit():
    masks = np.zeros((2, 8, 8), bool)
    masks[0, :, :6], masks[1, :, 2:] = True, True
    logits = np.zeros((2, 1, 4, 4), np.float32)
    logits[0, 0, :2], logits[1, 0, 2:] = 5, 5
    found = SimpleNamespace(object_ids=(7, 9), masks=masks, logits=logits)
    ids = object_map(found)
    assert (ids[:, :2] == 7).all()
    assert (ids[:, 6:] == 9).all()
    assert (ids[:2, 2:6] == 7).all()
    assert (ids[6:, 2:6] == 9).all()


def test_sequences_are_found(davis):
    assert [one.name for one in find_sequences(davis)] == ["discs", "unlisted"]
    assert [one.name for one in find_sequences(davis, image_set="2017/val")] == ["discs"]
    (one,) = find_sequences(davis, names=["unlisted"])
    assert sorted(one.masks) == list(range(FRAMES))
    (davis / "ImageSets" / "480p").mkdir()
    (davis / "ImageSets" / "480p" / "val.txt").write_text("/JPEGImages/480p/discs/00000.jpg /Annotations/480p/discs/00000.png\n" * 2)
    assert [one.name for one in find_sequences(davis, image_set="480p/val")] == ["discs"]


def break_it(kind, folder):
    masks = folder / "Annotations" / "480p" / "discs"
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
    elif kind == "frames":
        shutil.rmtree(folder / "JPEGImages" / "480p" / "discs")
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
        ("more", "has 8 frames only"),
        ("frames", "discs is missing"),
        ("masks", "discs holds no masks; expected files like 00000.png"),
    ],
)
def test_damaged_folders_are_refused(cli, davis, kind, message):
    break_it(kind, davis)
    assert message in cli("eval", "--davis", davis, "--set", "2017/val", "--bundle", PICO_BUNDLE, "--backend", "onnxruntime-cpu").error


def test_folders_that_are_none(tmp_path, davis):
    with pytest.raises(VideoError, match="holds no sequences: expected JPEGImages/480p"):
        find_sequences(tmp_path / "JPEGImages")
    with pytest.raises(VideoError, match=r"no image set .*2016/val.txt: No such file or directory; there are 2017/val"):
        find_sequences(davis, image_set="2016/val")
    with pytest.raises(VideoError, match="has no sequence 'dogs': it has discs, unlisted"):
        find_sequences(davis, names=["dogs"])


def test_the_command(cli, davis, tmp_path):
    """Plain discs in plain colours: the small model follows them from masks and boxes, the late one from its first frame on."""
    done = cli(
        *("eval", "--davis", davis, "--set", "2017/val", "--bundle", PICO_BUNDLE, "--backend", "onnxruntime-cpu"),
        *("--prompt", "mask", "--prompt", "box", "--per-object", "--json", tmp_path / "r.json", "--save", tmp_path / "masks"),
    )
    assert done.code == 0, done.err
    (run,) = json.loads((tmp_path / "r.json").read_text())["runs"]
    assert [(one["prompt"], one["frames"], sorted(one["objects"])) for one in run["sequences"]] == [
        ("mask", FRAMES, ["1", "2", "3"]),
        ("box", FRAMES, ["1", "2", "3"]),
    ]
    assert min(one["j_mean"] for one in run["sequences"]) > 0.6
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
    done = cli("eval", "--davis", tmp_path, "--bundle", PICO_BUNDLE, "--backend", "onnxruntime-cpu", "--prompt", "all")
    assert done.code == 0, done.err
    assert [line.split()[2] for line in done.out.splitlines()[1:]] == ["mask", "box", "click"]
    assert cli("eval", "--davis", tmp_path, "--bundle", PICO_BUNDLE, "--prompt", "scribble").error == (
        "--prompt scribble: choose from mask, box, click and all"
    )
