"""The detector around its graphs: what it finds is what transformers' own processing finds."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from trt_track.engines.bundle import Bundle
from trt_track.errors import BundleError, DeviceMemoryError, PromptError
from trt_track.export.image_encoder import MEAN_RGB, STD_RGB
from trt_track.runtime.detection_stage import DetectionSchedule, run_detection_stage
from trt_track.runtime.grounding_dino import GroundingDino, TextQuery, describe_query
from trt_track.runtime.video import open_video

TEXT = "a cat. red car. dog."


@pytest.fixture(scope="module")
def frames(bikes):
    with open_video(bikes) as source:
        return [frame.video_rgb_hwc for frame in source.frames(size=64, stop=2, keep_video=True)]


@pytest.fixture
def open_detector(tiny_detector):
    opened = []

    def open_one(text=TEXT, **thresholds):
        opened.append(GroundingDino.open(Bundle.open(tiny_detector), TextQuery(text, **thresholds), backend="onnxruntime-cpu"))
        return opened[-1]

    yield open_one
    for detector in opened:
        detector.close()


@pytest.fixture(scope="module")
def processor(detector_folder):
    from transformers import GroundingDinoImageProcessor, GroundingDinoProcessor, PreTrainedTokenizerFast

    images = GroundingDinoImageProcessor(size={"height": 96, "width": 130}, do_pad=False)
    return GroundingDinoProcessor(images, PreTrainedTokenizerFast(tokenizer_file=str(detector_folder / "tokenizer.json")))


@pytest.mark.filterwarnings("ignore")
def test_boxes_and_phrases_are_those_of_transformers_own_processing(open_detector, processor, frames):
    box_level, word_level = _thresholds(open_detector(), frames[0])
    detector = open_detector(box_threshold=box_level, text_threshold=word_level)
    logits, boxes, _ = detector.run(scaled(frames[0])[None])
    padded = np.full((1, logits.shape[1], 256), -np.inf, np.float32)  # as transformers' model returns them
    padded[..., : logits.shape[2]] = logits
    outputs = SimpleNamespace(logits=torch.from_numpy(padded), pred_boxes=torch.from_numpy(boxes))
    tokens = processor.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    np.testing.assert_array_equal(tokens[0].numpy(), detector.prompt.token)
    (wanted,) = processor.post_process_grounded_object_detection(
        outputs, tokens, threshold=box_level, text_threshold=word_level, target_sizes=[frames[0].shape[:2]]
    )
    (found,) = detector.detect(frames[:1])
    assert 3 < len(found) < 40
    theirs = sorted(zip(wanted["scores"].tolist(), wanted["boxes"].tolist(), wanted["text_labels"], strict=True), reverse=True)
    assert [one.words for one in found] == [words for _, _, words in theirs]
    np.testing.assert_allclose([one.score for one in found], [score for score, _, _ in theirs], atol=1e-6)
    inside = np.clip([box for _, box, _ in theirs], 0, [640, 272, 640, 272])
    np.testing.assert_allclose([one.box_xyxy_px for one in found], inside, atol=0.01)
    assert {one.label for one in found} <= {"a cat", "red car", "dog"}


@pytest.mark.filterwarnings("ignore")
def test_frames_are_scaled_as_transformers_scales_them(processor, frames):
    pixels = processor.image_processor(Image.fromarray(frames[0]), return_tensors="pt")["pixel_values"][0]
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (MEAN_RGB, STD_RGB))
    grey = (pixels.numpy() * std + mean) * 255
    assert np.abs(grey - scaled(frames[0]).transpose(2, 0, 1)).max() <= 1.01  # one step of eight bits: two programs that round


def scaled(frame):
    return np.asarray(Image.fromarray(frame).resize((130, 96), Image.Resampling.BILINEAR))


def _thresholds(detector, frame):
    """Return probabilities for boxes and for words that are far from any score, so that rounding decides nothing."""
    (logits,), _, _ = detector.run(scaled(frame)[None])
    probabilities = 0.5 + 0.5 * np.tanh(0.5 * logits)
    best = np.sort(probabilities.max(axis=1))[10:30]
    words = np.sort(probabilities, axis=None)
    words = words[(words > 0.2) & (words < 0.8)]
    return tuple(float(values[np.diff(values).argmax() :][:2].mean()) for values in (best, words))


def test_two_frames_at_once_are_two_frames_one_by_one(open_detector, frames):
    detector = open_detector(box_threshold=0.01)
    together = detector.detect(frames)
    for frame, found in zip(frames, together, strict=True):
        (alone,) = detector.detect([frame])
        assert [one.label for one in alone] == [one.label for one in found]
        np.testing.assert_allclose([one.box_xyxy_px for one in alone], [one.box_xyxy_px for one in found], atol=0.05)


def test_one_batch_is_held_at_a_time_and_nothing_of_one_that_does_not_fit(open_detector, frames, monkeypatch):
    detector = open_detector()
    session, held, room = detector.session, [], 10
    make, free = session.empty, session.free

    def empty(shape, dtype):
        if len(held) == room:
            raise DeviceMemoryError("no room")
        held.append(make(shape, dtype))
        return held[-1]

    def give_back(owner, arrays, events=()):
        gone = [id(array) for array in arrays]
        held[:] = [array for array in held if id(array) not in gone]
        free(owner, arrays, events)

    monkeypatch.setattr(session, "empty", empty)
    monkeypatch.setattr(session, "free", give_back)
    detector.detect(frames[:1])
    first = len(held)
    detector.detect(frames)
    assert {len(array) for array in held} == {2}
    assert len(held) == first
    room = first - 1
    with pytest.raises(DeviceMemoryError):
        detector.detect([frames[0]] * 3)
    assert held == []
    room = first
    assert len(detector.detect(frames)) == 2


def test_work_space_is_not_laid_out_a_second_time(open_detector):
    graphs = open_detector().session._engines.values()
    assert [graph.engine.get_session_options().enable_mem_pattern for graph in graphs] == [False, False]


def test_the_file_of_detections_does_not_depend_on_the_batch(open_detector, bikes, tmp_path):
    files = []
    for batch in (1, 3, 7):
        detector = open_detector(box_threshold=0.01)
        assert (detector.min_batch, detector.max_batch) == (1, 16)
        detector.min_batch = detector.max_batch = batch
        with open_video(bikes) as source:
            run_detection_stage(source, detector, DetectionSchedule(every=30, max_frames=200), tmp_path / f"{batch}.jsonl")
        files.append((tmp_path / f"{batch}.jsonl").read_bytes().splitlines()[:-1])  # the last line tells the memory that it took
    assert files[0] == files[1] == files[2]
    assert len(files[0]) == 1 + 7


def test_boxes_lie_inside_the_frame_best_first(open_detector, frames):
    (found,) = open_detector(box_threshold=0.01).detect(frames[:1])
    boxes = np.stack([one.box_xyxy_px for one in found])
    assert (boxes >= 0).all()
    assert (boxes[:, [0, 2]] <= 640).all()
    assert (boxes[:, [1, 3]] <= 272).all()
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)


def test_nothing_found_is_an_empty_result(open_detector, frames):
    assert open_detector(box_threshold=0.99999999).detect(frames) == [(), ()]


def test_describe_names_everything_that_decides(open_detector):
    one, other = open_detector().describe(), open_detector("dog").describe()
    assert one["text"] == TEXT
    assert one["detector"] == "small"
    assert set(one["sha256"]) == {"text_encoder", "detector"}
    assert one != other


@pytest.mark.parametrize("thresholds", [{}, {"box_threshold": 0.5, "text_threshold": 0.1}])
def test_the_manifest_and_the_prompt_tell_what_an_open_detector_describes(open_detector, tiny_detector, thresholds):
    described = describe_query(Bundle.open(tiny_detector), TextQuery(f" {TEXT.upper()}", **thresholds))
    assert described == open_detector(**thresholds).describe()


@pytest.mark.parametrize("thresholds", [{"box_threshold": 0}, {"box_threshold": 1.2}, {"text_threshold": -1}, {"text_threshold": 0}])
def test_thresholds_out_of_range_are_refused(thresholds):
    with pytest.raises(PromptError, match="choose a number between 0 and 1"):
        TextQuery("cat", **thresholds)


def test_a_trackers_bundle_is_refused(tiny_bundle):
    with pytest.raises(BundleError, match=r"has no file 'tokenizer\.json'"):
        GroundingDino.open(Bundle.open(tiny_bundle), TextQuery("cat"))


def test_a_detectors_bundle_cannot_track(tiny_detector):
    with pytest.raises(BundleError, match="holds the detector small, which cannot track"):
        _ = Bundle.open(tiny_detector).model


def test_a_changed_tokenizer_is_refused(tiny_detector, tmp_path):
    import shutil

    copied = shutil.copytree(tiny_detector, tmp_path / "bundle")
    path = copied / "tokenizer.json"
    path.write_bytes(path.read_bytes().replace(b"[UNK]", b"[unk]"))
    with pytest.raises(BundleError, match="was changed after it was written"):
        GroundingDino.open(Bundle.open(copied), TextQuery("cat"))
