"""J and F of sequences in DAVIS form: what trackeval's own evaluation says of the same masks, and what is refused."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from davis_folder import FRAMES, annotation, disc, write_davis
from PIL import Image
from trackeval import Evaluator
from trackeval.datasets import DAVIS
from trackeval.metrics import JAndF

from trt_track import Tracker
from trt_track.errors import ModelError, VideoError
from trt_track.evaluation import boundary
from trt_track.evaluation.boundary import boundary_f, encoded, f_of_frames, j_of_frames
from trt_track.evaluation.evaluate import evaluate_sequence, object_map, prompt_of
from trt_track.evaluation.scores import Score, score_object
from trt_track.evaluation.sequences import find_sequences


def by_trackeval(root, truth, found):
    """Score masks, files or arrays of ids, with trackeval's own reading of DAVIS's folders."""
    for frame, (wanted, got) in enumerate(zip(truth, found, strict=True)):
        for folder, ids in ((root / "gt" / "discs", wanted), (root / "trackers" / "ours" / "data" / "discs", got)):
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(ids).save(folder / f"{frame:05d}.png")
    quiet = {"PRINT_CONFIG": False, "PRINT_RESULTS": False, "OUTPUT_SUMMARY": False, "OUTPUT_DETAILED": False, "PLOT_CURVES": False}
    dataset = DAVIS({"GT_FOLDER": str(root / "gt"), "TRACKERS_FOLDER": str(root / "trackers"), "PRINT_CONFIG": False})
    evaluator = Evaluator({**quiet, "TIME_PROGRESS": False, "LOG_ON_ERROR": None, "BREAK_ON_ERROR": True, "USE_PARALLEL": False})
    results, _ = evaluator.evaluate([dataset], [JAndF()])
    return results["DAVIS"]["ours"]["COMBINED_SEQ"]["general"]["JAndF"]


def assert_agrees(ours, wanted):
    names = ("J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")
    assert [ours.j_mean, ours.j_recall, ours.j_decay, ours.f_mean, ours.f_recall, ours.f_decay] == pytest.approx([wanted[n] for n in names])
    assert ours.j_and_f == pytest.approx(wanted["J&F"])


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
    assert_agrees(ours, wanted)
    assert 0.3 < ours.j_mean < 0.95


@pytest.mark.filterwarnings("ignore")
def test_a_tracked_sequence_scores_as_its_saved_masks_do(tmp_path, capsys):
    """The whole way: trackeval reads the images that were saved, of all frames but the first and the last, and the annotations of these."""
    (sequence,) = find_sequences(write_davis(tmp_path / "davis", late=0, names=("discs",)))
    with Tracker.open("pico", backend="onnxruntime-cpu") as tracker:
        ours = evaluate_sequence(tracker, sequence, "box", save=tmp_path / "saved")
    saved = [np.asarray(Image.open(tmp_path / "saved" / f"{frame:05d}.png")) for frame in range(FRAMES)]
    wanted = by_trackeval(tmp_path, [annotation(frame, late=0) for frame in range(1, FRAMES - 1)], saved[1:-1])
    capsys.readouterr()
    assert_agrees(ours.score, wanted)
    assert 0.5 < ours.score.j_mean < 1  # so that a frame more or less, or void pixels, would show


def test_files_that_begin_at_one(tmp_path):
    """LVOS numbers so: masks belong to the frames of their number."""
    scores = []
    with Tracker.open("pico", backend="onnxruntime-cpu") as tracker:
        for first in (0, 1):
            (sequence,) = find_sequences(write_davis(tmp_path / str(first), first=first, names=("discs",)))
            assert [path.name for path in sequence.masks.values()][:1] == [f"0000{first}.png"]
            assert sorted(sequence.masks) == list(range(FRAMES))
            scores.append(evaluate_sequence(tracker, sequence, "mask").score)
    assert scores[0] == scores[1]


def test_annotations_of_every_other_frame(tmp_path):
    folder = write_davis(tmp_path, names=("discs",))
    for frame in range(1, FRAMES, 2):
        (folder / "Annotations" / "480p" / "discs" / f"{frame:05d}.png").unlink()
    (sequence,) = find_sequences(folder)
    assert sorted(sequence.masks) == [0, 2, 4, 6]
    (folder / "JPEGImages" / "480p" / "discs" / "00001.jpg").unlink()
    (sequence,) = find_sequences(folder)
    assert sequence.masks[1].name == "00002.png"  # the second frame that is there


def test_measures_at_their_ends():
    one, other, none = disc(40, 40, 20), disc(100, 40, 20), np.zeros((96, 128), bool)
    assert boundary_f(one, one) == boundary_f(none, none) == 1
    assert boundary_f(one, other) == boundary_f(one, none) == boundary_f(none, one) == 0
    assert boundary_f(one, np.roll(one, 1, axis=1)) == 1  # within 0.8 % of the diagonal
    assert 0 < boundary_f(one, disc(40, 40, 23)) < boundary_f(one, disc(40, 40, 21)) + 1e-9
    pairs = [(encoded(one), encoded(one)), (encoded(one), encoded(none)), (encoded(none), encoded(none))]
    found, truth = map(list, zip(*pairs, strict=True))
    assert j_of_frames(found, truth).tolist() == f_of_frames(found, truth).tolist() == [1, 0, 1]


def test_without_trackeval(monkeypatch):
    boundary._metric.cache_clear()
    monkeypatch.setitem(sys.modules, "trackeval.metrics", None)
    with pytest.raises(ModelError, match=r"trackeval.metrics is missing: pip install 'trt-track\[eval\]'"):
        boundary_f(np.zeros((8, 8), bool), np.zeros((8, 8), bool))


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


def test_sequences_are_found(tmp_path):
    davis = write_davis(tmp_path)
    assert [one.name for one in find_sequences(davis)] == ["discs", "unlisted"]
    assert [one.name for one in find_sequences(davis, image_set="2017/val")] == ["discs"]
    (one,) = find_sequences(davis, names=["unlisted"])
    assert sorted(one.masks) == list(range(FRAMES))
    (davis / "ImageSets" / "480p").mkdir()
    (davis / "ImageSets" / "480p" / "val.txt").write_text("/JPEGImages/480p/discs/00000.jpg /Annotations/480p/discs/00000.png\n" * 2)
    assert [one.name for one in find_sequences(davis, image_set="480p/val")] == ["discs"]


def test_folders_that_are_none(tmp_path):
    davis = write_davis(tmp_path)
    with pytest.raises(VideoError, match="holds no sequences: expected JPEGImages/480p"):
        find_sequences(tmp_path / "JPEGImages")
    with pytest.raises(VideoError, match=r"no image set .*2016/val.txt: No such file or directory; there are 2017/val"):
        find_sequences(davis, image_set="2016/val")
    with pytest.raises(VideoError, match="has no sequence 'dogs': it has discs, unlisted"):
        find_sequences(davis, names=["dogs"])
