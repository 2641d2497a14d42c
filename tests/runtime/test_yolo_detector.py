import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, save

from trt_track.engines.onnx_model import OnnxModel
from trt_track.errors import BundleError, EngineRunError, ModelError
from trt_track.runtime.detections import DetectionWriter, FrameDetections, read_detections
from trt_track.runtime.detector_card import DetectorCard, wanted_classes
from trt_track.runtime.letterbox import Letterbox, resize_bilinear
from trt_track.runtime.yolo_detector import YoloDetector, open_yolo_detector
from trt_track.runtime.yolo_head import CHANNELS_FIRST, CHANNELS_LAST, END_TO_END, OBJECTNESS, Candidates, drop_overlapping, head_form
from trt_track.specs import GraphSpec, TensorSpec

SIDE = 64
ELEMENT = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8, "int64": TensorProto.INT64}
CELLS = 8 * 8 + 4 * 4 + 2 * 2
"""Boxes of a head without selection at 64 x 64."""

# centre x, y, width, height, person, dog, car
ROWS = np.array(
    [
        [20, 24, 16, 20, 0.9, 0.1, 0.0],  # a person
        [21, 24, 16, 20, 0.8, 0.1, 0.0],  # the same person
        [20, 24, 16, 20, 0.2, 0.7, 0.0],  # a dog at the same place
        [48, 40, 20, 10, 0.0, 0.3, 0.6],  # a car
        [10, 50, 8, 8, 0.25, 0.0, 0.0],  # a person, not over the threshold
    ],
    np.float32,
)
PERSON, DOG, CAR = (12, 14, 28, 34), (12, 14, 28, 34), (38, 35, 58, 45)
CLASSES = ["person", "dog", "car"]


def write_model(path, output, *, batch="N", size=(SIDE, SIDE), dtype="float32", metadata=None):
    """A model that gives `output` (rows, columns) for every image."""
    nodes = [
        helper.make_node("ReduceMax", ["images", "all_but_batch"], ["most"], keepdims=0),
        helper.make_node("Reshape", ["most", "a_number_each"], ["number"]),
        helper.make_node("Mul", ["number", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "boxes"], ["output0"]),
    ]
    constants = {
        "all_but_batch": [1, 2, 3],
        "a_number_each": [-1, 1, 1],
        "zero": np.zeros((), dtype),
        "boxes": np.asarray(output, dtype)[None],
    }
    return save_model(
        path, nodes, [("images", dtype, [batch, 3, *size])], [("output0", dtype, [batch, *output.shape])], constants, metadata
    )


def save_model(path, nodes, inputs, outputs, constants=(), metadata=None):
    sides = [[helper.make_tensor_value_info(name, ELEMENT[dtype], shape) for name, dtype, shape in side] for side in (inputs, outputs)]
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in dict(constants).items()]
    graph = helper.make_graph(nodes, "detector", *sides, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, metadata or {})
    path.parent.mkdir(exist_ok=True)
    save(model, str(path))
    return path


def write_identity(path, inputs, outputs):
    """A model whose outputs are constants of the declared shapes: good enough for what is refused before it runs."""
    nodes = [helper.make_node("Identity", [f"value_{name}"], [name]) for name, _, _ in outputs]
    constants = {f"value_{name}": np.zeros([d if isinstance(d, int) else 1 for d in shape], dtype) for name, dtype, shape in outputs}
    return save_model(path, nodes, inputs, outputs, constants)


def folder_of(tmp_path, output, *, card=None, **model):
    folder = tmp_path / "detector"
    write_model(folder / "detector.onnx", output, **model)
    if card is None:
        card = {"classes": CLASSES}
    if card:
        (folder / "detector.json").write_text(json.dumps(card))
    return folder


def opened(folder, **options):
    return open_yolo_detector(folder, threads=1, **options)


def plain(detections):
    """(label, score, box) with numbers that can be compared."""
    return [(one.label, round(one.score, 3), tuple(round(float(value), 2) for value in one.box_xyxy_px)) for one in detections]


def black(height=SIDE, width=SIDE):
    return np.zeros((height, width, 3), np.uint8)


# The forms of heads


def to_objectness(rows):
    """Half of the sureness in the objectness, the other half in the classes."""
    objectness = np.full((len(rows), 1), 0.95, np.float32)
    return np.concatenate([rows[:, :4], objectness, rows[:, 4:] / 0.95], axis=1)


def to_end_to_end(rows):
    center, half = rows[:, :2], rows[:, 2:4] / 2
    return np.concatenate([center - half, center + half, rows[:, 4:].max(1, keepdims=True), rows[:, 4:].argmax(1)[:, None]], axis=1)


def in_every_cell(rows, per_cell=1):
    """Fill the head up with boxes that score nothing."""
    return np.concatenate([rows, np.zeros((per_cell * CELLS - len(rows), rows.shape[1]), np.float32)])


FORMS = {
    "v8, a box a cell": (in_every_cell(ROWS).T, CHANNELS_FIRST),
    "v8, another number of boxes": (ROWS.T, CHANNELS_FIRST),
    "transposed": (ROWS, CHANNELS_LAST),
    "transposed, a box a cell": (in_every_cell(ROWS), CHANNELS_LAST),
    "v5, three boxes a cell": (in_every_cell(to_objectness(ROWS), 3), OBJECTNESS),
    "v6, a box a cell": (in_every_cell(to_objectness(ROWS)), OBJECTNESS),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_head_without_selection(tmp_path, form, dtype):
    output, expected = FORMS[form]
    detector = opened(folder_of(tmp_path, output, dtype=dtype), threshold=0.3)
    assert detector.describe()["form"] == expected.name
    (found,) = detector.detect([black()])
    assert [(label, box) for label, _, box in plain(found)] == [("person", PERSON), ("dog", DOG), ("car", CAR)]
    assert [one.score for one in found] == pytest.approx([0.9, 0.7, 0.6], abs=1e-3)


def test_an_end_to_end_head_keeps_what_overlaps(tmp_path):
    """Such a model has chosen already; what is left overlapping are different objects to it."""
    rows = np.concatenate([to_end_to_end(ROWS)[::-1], np.zeros((95, 6), np.float32)])
    (found,) = opened(folder_of(tmp_path, rows)).detect([black()])
    second = (13, 14, 29, 34)
    expected = [("person", 0.9, PERSON), ("person", 0.8, second), ("dog", 0.7, DOG), ("car", 0.6, CAR)]
    assert plain(found) == expected


def test_an_end_to_end_head_may_find_nothing(tmp_path):
    detector = opened(folder_of(tmp_path, np.zeros((0, 6), np.float32)))
    assert detector.describe()["form"] == END_TO_END.name
    assert detector.detect([black()]) == [()]


@pytest.mark.parametrize(
    ("shape", "classes", "form"),
    [
        ((1, 84, 8400), 80, CHANNELS_FIRST),
        ((1, 8400, 84), 80, CHANNELS_LAST),
        ((1, 25200, 85), 80, OBJECTNESS),
        ((1, 8400, 85), 80, OBJECTNESS),
        ((1, 300, 6), 80, END_TO_END),
        ((8, 300, 6), 80, END_TO_END),
        # Two classes: six channels are either form.
        ((1, 6, 8400), 2, CHANNELS_FIRST),
        ((1, 300, 6), 2, END_TO_END),
        ((1, 100, 6), 2, END_TO_END),
        ((1, 8400, 6), 2, CHANNELS_LAST),
        ((1, 8500, 6), 2, CHANNELS_LAST),  # P6
        ((1, 34000, 6), 2, CHANNELS_LAST),  # P2
        # One class, with objectness: six channels, too.
        ((1, 25200, 6), 1, OBJECTNESS),
        ((1, 25500, 6), 1, OBJECTNESS),  # P6
        ((1, 8400, 6), 1, OBJECTNESS),
        ((1, 300, 6), 1, END_TO_END),
        ((1, 5, 8400), 1, CHANNELS_FIRST),
        # As many selected boxes as channels.
        ((1, 300, 6), 296, END_TO_END),
        ((1, 6, 6), 2, END_TO_END),
        # As many boxes as channels: no exporter transposes that.
        ((1, 84, 84), 80, CHANNELS_FIRST),
    ],
)
def test_the_form_follows_from_shape_and_classes(shape, classes, form):
    assert head_form("m", shape, classes, (640, 640)) is form


@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [
        ((1, 84, 8400), 3, r"\[N, 7, n\].*84 channels are 80 classes, or 79 with objectness"),
        ((1, 25200, 85), 3, "85 channels are 81 classes, or 80 with objectness"),
        ((1, 25200, 85), 81, "85 channels are 81 classes, or 80 with objectness"),  # 3 boxes a cell: it has objectness
        ((1, 25200, 6), 80, "6 channels are 2 classes, or 1 with objectness"),
        ((1, 25200, 6), 2, "6 channels are 2 classes, or 1 with objectness"),
        ((1, 56, 8400), 1, "keypoints"),
        ((1, 300, 38), 80, "masks"),
        ((1, 1000), 1000, r"gives \[1, 1000\]; expected for 1000 named classes"),
        ((1, 3, 80, 80, 85), 80, r"\[1, 3, 80, 80, 85\].*export a YOLO detection model"),
        ((), 80, "expected"),
        ((1, 3, 0), 80, "too few channels"),
    ],
)
def test_an_unknown_form_says_what_is_known(shape, classes, message):
    with pytest.raises(ModelError, match=message):
        head_form("m", shape, classes, (640, 640))


@pytest.mark.parametrize(
    ("size_hw", "cells"), [((640, 640), 8400), ((384, 640), 5040), ((640, 384), 5040), ((100, 60), 13 * 8 + 7 * 4 + 4 * 2)]
)
def test_a_grid_follows_from_the_input_size(size_hw, cells):
    assert head_form("m", (1, cells, 6), 2, size_hw) is CHANNELS_LAST
    assert head_form("m", (1, 3 * cells, 6), 1, size_hw) is OBJECTNESS
    assert head_form("m", (1, cells - 1, 6), 2, size_hw) is END_TO_END


# What is kept


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ({}, ["person", "dog", "car"]),
        ({"classes": ["dog"]}, ["dog"]),
        ({"classes": ["CAR", "person"]}, ["person", "car"]),
        ({"threshold": 0.65}, ["person", "dog"]),
        ({"threshold": 0.2}, ["person", "dog", "car", "person"]),
        ({"threshold": 0.2, "classes": ["person"]}, ["person", "person"]),
        ({"threshold": 0.99}, []),
    ],
)
def test_classes_and_threshold(tmp_path, options, labels):
    (found,) = opened(folder_of(tmp_path, ROWS.T), **options).detect([black()])
    assert [one.label for one in found] == labels


def test_a_box_counts_for_its_best_class_alone(tmp_path):
    """The dog's box is a person with 0.2 as well, and the car's a dog with 0.3: neither is found under its second class."""
    (found,) = opened(folder_of(tmp_path, ROWS[2:].T), classes=["dog"], threshold=0.1).detect([black()])
    assert plain(found) == [("dog", 0.7, DOG)]


def test_the_threshold_of_the_file(tmp_path):
    folder = folder_of(tmp_path, ROWS.T, card={"classes": CLASSES, "threshold": 0.65})
    assert [one.label for one in opened(folder).detect([black()])[0]] == ["person", "dog"]
    assert len(opened(folder, threshold=0.5).detect([black()])[0]) == 3


def test_a_score_equal_to_the_threshold_is_not_enough(tmp_path):
    detector = opened(folder_of(tmp_path, ROWS.T), threshold=0.25)
    assert len(detector.detect([black()])[0]) == 3  # 0.25 is exact in float32


def test_boxes_end_at_the_video_and_thin_ones_go(tmp_path):
    rows = np.array(
        [
            [2, 30, 20, 10, 0.9, 0, 0],  # over the left edge
            [60, 60, 40, 40, 0.8, 0, 0],  # over the lower right corner
            [30, -10, 10, 10, 0.7, 0, 0],  # above the video
            [50, 10, 0.9, 10, 0.6, 0, 0],  # thinner than a pixel
            [50, 30, -5, 10, 0.5, 0, 0],  # turned inside out
        ],
        np.float32,
    )
    (found,) = opened(folder_of(tmp_path, rows.T)).detect([black()])
    assert plain(found) == [("person", 0.9, (0, 25, 12, 35)), ("person", 0.8, (40, 40, 64, 64))]


def test_what_is_found_can_be_written_and_read(tmp_path):
    found = opened(folder_of(tmp_path, ROWS.T)).detect([black(50, 81)])[0]
    with DetectionWriter(tmp_path / "detections.jsonl", {}) as writer:
        writer.write(FrameDetections(0, found))
        writer.finish()
    (frame,) = read_detections(tmp_path / "detections.jsonl").frames
    assert [one.label for one in frame.found] == ["person", "dog", "car"]
    assert all(one.box_xyxy_px.dtype == np.float32 for one in found)


def test_no_more_than_three_hundred_boxes(tmp_path):
    rows = np.array([[8, 8, 4, 4, 0.3 + 0.001 * n, n % 3] for n in range(400)], np.float32)
    rows[:, 2:4] += rows[:, :2]
    (found,) = opened(folder_of(tmp_path, rows)).detect([black()])
    assert len(found) == 300
    assert found[0].score == pytest.approx(0.699)
    assert found[-1].score == pytest.approx(0.4)


# Suppression


def slow_suppression(boxes, scores, labels, max_iou):
    """Without numpy, a pair at a time."""

    def iou(a, b):
        width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
        height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
        total = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
        return width * height / total if total > 0 else 0.0

    kept = []
    for row in sorted(range(len(boxes)), key=lambda row: (-scores[row], row)):
        if all(labels[row] != labels[other] or iou(boxes[other], boxes[row]) <= max_iou for other in kept):
            kept.append(row)
    return kept


def candidates(boxes, scores, labels):
    return Candidates(np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(labels, np.int64))


corner = st.integers(0, 12)
length = st.integers(0, 12)
box = st.tuples(corner, corner, length, length).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(box, st.sampled_from([0.1, 0.5, 0.6, 0.9]), st.integers(0, 2)), max_size=25), st.sampled_from([0.0, 0.3, 0.5, 0.7])
)
def test_suppression_equals_the_slow_reference(rows, max_iou):
    boxes, scores, labels = ([row[part] for row in rows] for part in range(3))
    kept = drop_overlapping(candidates(boxes, scores, labels), max_iou)
    assert kept.tolist() == slow_suppression(boxes, scores, labels, max_iou)


@pytest.mark.parametrize(
    ("boxes", "labels", "kept"),
    [
        ([], [], []),
        ([(0, 0, 10, 10), (0, 0, 10, 7)], [0, 0], [0, 1]),  # shares exactly 0.7: stays
        ([(0, 0, 10, 10), (0, 0, 10, 7.1)], [0, 0], [0]),
        ([(0, 0, 10, 10), (0, 0, 10, 10)], [0, 1], [0, 1]),  # another class
        ([(0, 0, 10, 10), (0, 0, 10, 8), (0, 0, 10, 6)], [0, 0, 0], [0, 2]),  # what is dropped drops nothing
        ([(5, 5, 5, 5), (5, 5, 5, 5)], [0, 0], [0, 1]),  # empty boxes share nothing
    ],
)
def test_suppression_by_hand(boxes, labels, kept):
    scores = np.linspace(0.9, 0.5, len(boxes))
    assert drop_overlapping(candidates(boxes, scores, labels)).tolist() == kept


def test_suppression_stops_at_its_limit():
    boxes = [(20 * n, 0, 20 * n + 10, 10) for n in range(10)]
    assert drop_overlapping(candidates(boxes, np.arange(10) / 10, [0] * 10), limit=3).tolist() == [9, 8, 7]


# Letterbox


@pytest.mark.parametrize(
    ("video_hw", "size_hw", "scaled_hw", "top", "left"),
    [
        ((720, 1280), (640, 640), (360, 640), 140, 0),
        ((1280, 720), (640, 640), (640, 360), 0, 140),
        ((640, 640), (640, 640), (640, 640), 0, 0),
        ((33, 100), (64, 64), (21, 64), 21, 0),  # 43 rows to share: the smaller half above
        ((240, 432), (384, 640), (356, 640), 14, 0),
        ((1, 2000), (64, 64), (1, 64), 31, 0),
    ],
)
def test_where_the_picture_lies(video_hw, size_hw, scaled_hw, top, left):
    assert Letterbox.of(video_hw, size_hw) == Letterbox(video_hw, scaled_hw, top, left)


def test_the_picture_and_nothing_else_is_between_the_bars():
    image = np.full((3, 64, 64), 7, np.float32)
    frame = np.full((33, 100, 3), 255, np.uint8)
    frame[..., 1:] = 0, 51
    Letterbox.of((33, 100), (64, 64)).write(frame, image)
    assert np.allclose(image[:, 21:42], np.array([1, 0, 0.2], np.float32)[:, None, None])  # RGB, 0 to 1
    assert np.allclose(image[:, :21], 114 / 255)
    assert np.allclose(image[:, 42:], 114 / 255)


def test_corners_of_the_picture_are_corners_of_the_video():
    letterbox = Letterbox.of((33, 100), (64, 64))
    boxes = np.array([[0, 21, 64, 42], [16, 21, 32, 31.5], [-9, 0, 99, 64]], np.float32)
    assert np.allclose(letterbox.to_video(boxes), [[0, 0, 100, 33], [25, 0, 50, 16.5], [0, 0, 100, 33]])


@pytest.mark.parametrize("size_hw", [(360, 640), (90, 160), (200, 300), (77, 31), (53, 70)])
def test_resizing_is_opencvs(size_hw):
    cv2 = pytest.importorskip("cv2")
    image = np.random.default_rng(3).integers(0, 256, (200, 300, 3), np.uint8)
    ours = resize_bilinear(image, size_hw)
    exact = cv2.resize(image.astype(np.float32), size_hw[::-1], interpolation=cv2.INTER_LINEAR)
    assert np.abs(ours - exact).max() < 0.501  # it is rounded to whole numbers
    fixed_point = cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_LINEAR)
    assert np.abs(ours - fixed_point).max() <= 1


def write_rectangle_finder(path, size_hw):
    """A model that boxes everything bright: one row end to end."""
    height, width = size_hw
    constants = {"from": [1], "to": [2], "channel": [1], "one": [1], "half": np.float32(0.5), "zero": np.float32(0)}
    constants |= {"all": [1, 2, 3], "column": [-1, 1, 1]}
    nodes = [
        helper.make_node("Slice", ["images", "from", "to", "channel"], ["green"]),
        helper.make_node("Greater", ["green", "half"], ["is_bright"]),
        helper.make_node("Cast", ["is_bright"], ["bright"], to=TensorProto.FLOAT),
    ]
    for name, axis in (("x", 2), ("y", 3)):
        constants[f"over_{name}"] = [1, axis]
        nodes += [
            helper.make_node("ReduceMax", ["bright", f"over_{name}"], [f"line_{name}"], keepdims=0),
            helper.make_node("ArgMax", [f"line_{name}"], [f"first_{name}"], axis=1),
            helper.make_node("ArgMax", [f"line_{name}"], [f"last_{name}"], axis=1, select_last_index=1),
            helper.make_node("Add", [f"last_{name}", "one"], [f"end_{name}"]),
        ]
    nodes += [
        helper.make_node("Concat", ["first_x", "first_y", "end_x", "end_y"], ["corners"], axis=1),
        helper.make_node("Cast", ["corners"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["real", "one"], ["box"]),
        helper.make_node("ReduceMax", ["bright", "all"], ["any"], keepdims=0),
        helper.make_node("Reshape", ["any", "column"], ["score"]),
        helper.make_node("Mul", ["score", "zero"], ["class"]),
        helper.make_node("Concat", ["box", "score", "class"], ["output0"], axis=2),
    ]
    return save_model(path, nodes, [("images", "float32", ["N", 3, height, width])], [("output0", "float32", ["N", "n", 6])], constants)


@pytest.fixture(scope="module", params=[(64, 64), (64, 96), (160, 128)], ids=str)
def rectangle_finder(request, tmp_path_factory):
    path = write_rectangle_finder(tmp_path_factory.mktemp("finder") / "detector.onnx", request.param)
    return YoloDetector(OnnxModel(path, threads=1), DetectorCard(("rectangle",)))


@st.composite
def rectangles(draw):
    """A video's size and a box in it that the model can see."""
    height, width = draw(st.integers(20, 150)), draw(st.integers(20, 150))
    least = 8  # at least 3 pixels of the smallest input
    x0, y0 = draw(st.integers(0, width - least)), draw(st.integers(0, height - least))
    x1, y1 = draw(st.integers(x0 + least, width)), draw(st.integers(y0 + least, height))
    return (height, width), (x0, y0, x1, y1)


@settings(max_examples=100, deadline=None)
@given(sample=rectangles())
def test_a_rectangle_comes_back_within_a_pixel(rectangle_finder, sample):
    """A pixel of the video, or of the input where that one is larger."""
    (height, width), (x0, y0, x1, y1) = sample
    frame = black(height, width)
    frame[y0:y1, x0:x1] = 255
    ((found,),) = rectangle_finder.detect([frame])
    scaled_hw = Letterbox.of((height, width), rectangle_finder.size_hw).scaled_hw
    tolerance = 1.01 * max(1, height / scaled_hw[0], width / scaled_hw[1])
    assert np.abs(found.box_xyxy_px - [x0, y0, x1, y1]).max() <= tolerance


# Batches


def test_each_frame_has_its_own_boxes_whatever_the_batch(rectangle_finder):
    assert (rectangle_finder.min_batch, rectangle_finder.max_batch) == (1, 16)
    frames = [black(70, 90) for _ in range(6)]
    for place, frame in enumerate(frames[:5]):
        frame[10:40, 10 * place : 10 * place + 30] = 255
    found = rectangle_finder.detect(frames)
    alone = [rectangle_finder.detect([frame])[0] for frame in frames]
    assert [plain(one) for one in found] == [plain(one) for one in alone]
    assert [round(float(one[0].box_xyxy_px[0]) / 10) for one in found[:5]] == [0, 1, 2, 3, 4]
    assert found[5] == ()
    assert rectangle_finder.detect([]) == []


class Recorder:
    """Fits the engine's protocol: gives the same rows for each image and remembers what it saw."""

    def __init__(self, rows, *, batch="N", size=(SIDE, SIDE), dtype="float32"):
        self.rows, self.seen, self.closed = np.asarray(rows, dtype), [], False
        image = TensorSpec("images", (batch, 3, *size), dtype)
        self.spec = GraphSpec("fake.onnx", (image,), (TensorSpec("output0", (batch, "rows", "columns"), dtype),))

    def run(self, inputs):
        self.seen.append({name: array.copy() for name, array in inputs.items()})
        return {"output0": np.repeat(self.rows[None], len(inputs["images"]), axis=0)}

    def close(self):
        self.closed = True


CARD = DetectorCard(tuple(CLASSES), size_hw=(SIDE, SIDE))


@pytest.mark.parametrize(("batch", "most", "runs"), [("N", (1, 16), [16, 4]), (1, (1, 1), [1] * 20), (3, (3, 3), [3] * 7)])
def test_how_many_frames_run_together(batch, most, runs):
    engine = Recorder(ROWS.T, batch=batch)
    detector = YoloDetector(engine, CARD)
    assert (detector.min_batch, detector.max_batch) == most
    engine.seen.clear()
    found = detector.detect([black() + 10 * n for n in range(20)])
    assert len(found) == 20
    assert [len(one["images"]) for one in engine.seen] == runs
    first_pixels = np.concatenate([one["images"][:, 0, 0, 0] for one in engine.seen])[:20]
    assert first_pixels * 255 == pytest.approx([10 * n for n in range(20)])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_input_has_the_models_dtype(dtype):
    engine = Recorder(ROWS.T, dtype=dtype)
    YoloDetector(engine, CARD).detect([black()])
    assert {one["images"].dtype.name for one in engine.seen} == {dtype}


def test_closing_frees_the_engine():
    engine = Recorder(ROWS.T)
    YoloDetector(engine, CARD).close()
    assert engine.closed


# What describes a detector


def test_describe_names_all_that_decides(tmp_path):
    folder = folder_of(tmp_path, ROWS.T)
    detector = opened(folder, classes=["car", "person"], threshold=0.4)
    described = detector.describe()
    assert described == {
        "kind": "yolo",
        "sha256": hashlib.sha256((folder / "detector.onnx").read_bytes()).hexdigest(),
        "weights": [],
        "form": CHANNELS_FIRST.name,
        "classes": CLASSES,
        "wanted": ["person", "car"],
        "threshold": 0.4,
        "max_iou": 0.7,
        "size": [SIDE, SIDE],
    }
    assert json.loads(json.dumps(described)) == described
    assert (
        opened(folder, classes=["person", "car"], threshold=0.4).describe() == described
    )  # the order that they are asked for in is nothing


def test_weights_outside_the_file_count(tmp_path):
    folder = folder_of(tmp_path, ROWS.T)
    (folder / "detector.onnx.data").write_bytes(b"weights")
    (one,) = opened(folder).describe()["weights"]
    assert one == {"file": "detector.onnx.data", "sha256": hashlib.sha256(b"weights").hexdigest(), "bytes": 7}


# The small file and the metadata

NAMES = {"names": "{0: 'person', 1: 'dog', 2: 'car'}", "imgsz": f"[{SIDE}, {SIDE}]", "stride": "32", "task": "detect"}


@pytest.mark.parametrize("classes", [CLASSES, {"0": "person", "1": "dog", "2": "car"}, {"2": "car", "0": "person", "1": "dog"}])
def test_classes_are_a_list_or_a_mapping(tmp_path, classes):
    assert opened(folder_of(tmp_path, ROWS.T, card={"classes": classes})).classes == ("person", "dog", "car")


@pytest.mark.parametrize("names", [NAMES["names"], "['person', 'dog', 'car']", '{"0": "person", "1": "dog", "2": "car"}'])
def test_the_metadata_is_enough(tmp_path, names):
    folder = folder_of(tmp_path, ROWS.T, card={}, size=("height", "width"), metadata={**NAMES, "names": names})
    detector = opened(folder)
    assert detector.classes == ("person", "dog", "car")
    assert detector.size_hw == (SIDE, SIDE)


def test_the_file_wins_over_the_metadata(tmp_path):
    card = {"classes": ["human", "hound", "auto"], "size": [96, 128]}
    detector = opened(folder_of(tmp_path, ROWS.T, card=card, size=("height", "width"), metadata=NAMES))
    assert detector.classes == ("human", "hound", "auto")
    assert detector.size_hw == (96, 128)


def test_each_takes_what_the_other_lacks(tmp_path):
    detector = opened(folder_of(tmp_path, ROWS.T, card={"size": 96}, size=("height", "width"), metadata=NAMES))
    assert (detector.classes[0], detector.size_hw) == ("person", (96, 96))


def test_metadata_that_nobody_needs_are_not_read(tmp_path):
    folder = folder_of(tmp_path, ROWS.T, card={"classes": CLASSES, "size": SIDE}, metadata={"names": "{", "imgsz": "["})
    assert opened(folder).size_hw == (SIDE, SIDE)


def test_a_card_may_state_both_sizes():
    card = DetectorCard(tuple(CLASSES), size_hw=(SIDE, 96), exported_hw=(640, 640))
    assert YoloDetector(Recorder(ROWS.T, size=("height", "width")), card).size_hw == (SIDE, 96)


def test_the_graph_wins_over_the_metadatas_size(tmp_path):
    assert opened(folder_of(tmp_path, ROWS.T, card={}, metadata={**NAMES, "imgsz": "[640, 640]"})).size_hw == (SIDE, SIDE)


def test_a_graph_may_fix_one_side(tmp_path):
    assert opened(folder_of(tmp_path, ROWS.T, card={"classes": CLASSES, "size": [SIDE, 96]}, size=(SIDE, "width"))).size_hw == (SIDE, 96)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"clases": CLASSES}, "unknown keys clases: it may have classes, size and threshold"),
        ({"size": SIDE}, "nothing names the classes"),
        ({"classes": []}, "does not name its classes"),
        ({"classes": "person"}, "does not name its classes"),
        ({"classes": ["person", ""]}, "does not name its classes"),
        ({"classes": ["person", None]}, "does not name its classes"),
        ({"classes": {"0": "person", "2": "car"}}, "numbers its classes 0, 2: expected 0, 1, 2"),
        ({"classes": {"person": 0}}, "numbers its classes person: expected"),
        ({"classes": CLASSES[:2]}, r"gives \[1, 7, 5\]; expected for 2 named classes"),
        (
            {"classes": CLASSES, "size": 128},
            r"states the size \[128, 128\], but .*detector\.onnx takes float32\[N, 3, 64, 64\]",
        ),
        ({"classes": CLASSES, "size": 0}, "states the size 0: expected 640 or"),
        ({"classes": CLASSES, "size": "640"}, "states the size '640': expected"),
        ({"classes": CLASSES, "size": True}, "states the size True"),
        ({"classes": CLASSES, "size": [64]}, r"states the size \[64\]"),
        ({"classes": CLASSES, "size": [64, 64, 3]}, "states the size"),
        ({"classes": CLASSES, "size": 64.5}, "states the size"),
        ({"classes": CLASSES, "size": 100000}, "from 1 to 8192"),
        ({"classes": CLASSES, "threshold": 1}, "threshold in .* is 1: expected a number from 0 to less than 1"),
        ({"classes": CLASSES, "threshold": -0.1}, "threshold"),
        ({"classes": CLASSES, "threshold": "0.3"}, "threshold"),
        ({"classes": CLASSES, "threshold": float("nan")}, "threshold"),
    ],
)
def test_a_file_that_makes_no_sense(tmp_path, card, message):
    with pytest.raises(ModelError, match=message) as caught:
        opened(folder_of(tmp_path, ROWS.T, card=card))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_cannot_be_read(tmp_path, content):
    folder = folder_of(tmp_path, ROWS.T)
    (folder / "detector.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"detector\.json"):
        opened(folder)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "nothing names the classes"),
        ({"names": "{0: 'person'"}, "names that cannot be read"),
        ({"names": "__import__('os').getcwd()"}, "names that cannot be read"),
        ({"names": "(" * 5000}, "names that cannot be read"),
        ({"names": "{1: 'person'}"}, "numbers its classes 1"),
        ({**NAMES, "imgsz": "big"}, "imgsz that cannot be read"),
        ({**NAMES, "imgsz": "[0, 64]"}, "states the size"),
        ({**NAMES, "task": "segment"}, "a model for 'segment': export one for detection"),
        ({**NAMES, "task": "pose"}, "a model for 'pose'"),
    ],
)
def test_metadata_that_make_no_sense(tmp_path, metadata, message):
    with pytest.raises(ModelError, match=message):
        opened(folder_of(tmp_path, ROWS.T, card={}, metadata=metadata))


def test_a_model_of_any_size_needs_one(tmp_path):
    with pytest.raises(ModelError, match="takes any size and nothing says which"):
        opened(folder_of(tmp_path, ROWS.T, size=("height", "width")))


# Classes that are asked for


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("persn", r"knows no class 'persn': did you mean person\?"),
        ("Trafic Light", r"did you mean traffic light\?"),
        ("zebra", "it knows person, dog, traffic light"),
        ("", "knows no class ''"),
    ],
)
def test_an_unknown_class_names_the_closest(asked, message):
    with pytest.raises(ModelError, match=message):
        wanted_classes(["dog", asked], ["person", "dog", "traffic light"], "m")


def test_an_unknown_class_does_not_list_hundreds():
    with pytest.raises(ModelError, match="and 988 more") as caught:
        wanted_classes(["zzz"], [f"class {n}" for n in range(1000)], "m")
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("asked", "indexes"), [([], (0, 1, 2, 3)), (["Dog"], (1, 3)), (["PERSON", "person"], (0,)), (["car", "person"], (0, 2))]
)
def test_names_that_stand_there_twice_are_meant_twice(asked, indexes):
    assert wanted_classes(asked, ["person", "Dog", "car", "dog"], "m") == indexes


# What is refused


def test_no_folder(tmp_path):
    with pytest.raises(ModelError, match=r"none is no folder.*detector\.onnx"):
        opened(tmp_path / "none")


def test_the_file_instead_of_its_folder(tmp_path):
    with pytest.raises(ModelError, match=r"detector\.onnx is no folder"):
        opened(folder_of(tmp_path, ROWS.T) / "detector.onnx")


def test_a_folder_without_a_model(tmp_path):
    (tmp_path / "best.onnx").touch()
    with pytest.raises(ModelError, match=r"holds no detector\.onnx: put"):
        opened(tmp_path)


def test_a_model_that_is_no_onnx_file(tmp_path):
    (tmp_path / "detector.onnx").write_text("not a model")
    with pytest.raises(ModelError, match=r"ONNX Runtime cannot load.*detector\.onnx"):
        opened(tmp_path)


IMAGES = ("images", "float32", ["N", 3, SIDE, SIDE])
BOXES = ("output0", "float32", [1, 7, 84])


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (
            [IMAGES, ("size", "int64", [2])],
            [BOXES],
            r"has 2 inputs \(images float32\[N, 3, 64, 64\], size int64\[2\]\): a detector takes images alone",
        ),
        ([("images", "uint8", [1, 3, SIDE, SIDE])], [BOXES], r"takes images uint8\[1, 3, 64, 64\]; expected float32 or float16"),
        ([("images", "float32", [1, SIDE, SIDE, 3])], [BOXES], r"takes images float32\[1, 64, 64, 3\]; expected"),
        ([("images", "float32", [1, 1, SIDE, SIDE])], [BOXES], r"expected float32 or float16 \[N, 3, height, width\]"),
        ([("tokens", "int64", [1, 77])], [BOXES], r"takes tokens int64\[1, 77\]"),
        (
            [IMAGES],
            [BOXES, ("output1", "float32", [1, 32, 16, 16])],
            r"has 2 outputs \(output0 .*output1 float32\[1, 32, 16, 16\]\); segmentation models",
        ),
        ([IMAGES], [("a", "float32", [1, 255, n, n]) for n in (8, 4, 2)], "has 3 outputs.*raw heads"),
        ([IMAGES], [("output0", "int64", [1, 7, 84])], r"gives output0 int64\[1, 7, 84\]"),
        ([IMAGES], [("output0", "float32", [1, 1000])], r"gives \[1, 1000\]; expected for 3 named classes"),
        ([IMAGES], [("output0", "float32", [1, 56, 84])], "56 channels are 52 classes"),
        ([IMAGES], [("output0", "float32", [])], r"made \[\] of 1 images"),
        ([IMAGES], [("output0", "float32", [84, 7])], r"made \[84, 7\] of 1 images"),
    ],
)
def test_graphs_that_are_no_known_detector(tmp_path, inputs, outputs, message):
    outputs = [(f"{name}{place}" if len(outputs) > 2 else name, *rest) for place, (name, *rest) in enumerate(outputs)]
    write_identity(tmp_path / "detector.onnx", inputs, outputs)
    (tmp_path / "detector.json").write_text(json.dumps({"classes": CLASSES}))
    with pytest.raises(ModelError, match=message) as caught:
        opened(tmp_path)
    assert "\n" not in str(caught.value)
    assert "detector.onnx" in str(caught.value)


def changed(row, column, value):
    rows = ROWS.copy()
    rows[row, column] = value
    return rows.T


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (changed(0, 5, -4.2), None),  # its best class is a probability still
        (changed(4, slice(4, None), -4.2), "not between 0 and 1: export the model with its sigmoid"),
        (changed(0, 4, 1.5), "not between 0 and 1"),
        (changed(0, 4, np.nan), "not finite"),
        (changed(0, 1, np.inf), "not finite"),
        (np.concatenate([ROWS.T[:4] / SIDE, ROWS.T[4:]]), "RT-DETR gives fractions, YOLOX offsets"),
        (np.array([[5, 5, 20, 20, 0.9, 3]]), "class numbers other than 0 to 2: name all of its classes"),
        (np.array([[5, 5, 20, 20, 0.9, -1]]), "class numbers"),
        (np.array([[5, 5, 20, 20, 0.9, 0.5]]), "class numbers"),
        (np.array([[5, 5, 20, 20, 0.0, -1]]), None),  # a place that is not used
        (np.array([[5, 5, 20, 20, 0.9, np.nan]]), "class numbers"),
    ],
)
def test_numbers_that_no_detector_gives(tmp_path, output, message):
    folder = folder_of(tmp_path, np.asarray(output, np.float32))
    if message is None:
        assert opened(folder).detect([black()])[0] is not None
        return
    with pytest.raises(ModelError, match=message):
        opened(folder)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[5, 5, 20, 20, np.nan, 0]], "fake.onnx gives numbers that are not finite.*export it in float32"),
        ([[5, np.nan, 20, 20, 0.9, 0]], "not finite"),
        ([[5, 5, 20, 20, 0.9, 7]], "class numbers other than 0 to 2"),
        ([[0.1, 0.1, 0.9, 0.9, 0.9, 0]], "no pixels"),
    ],
)
def test_numbers_that_make_no_sense_later(rows, message):
    """On the grey image nothing was found; a box under the threshold is never looked at."""
    engine = Recorder(np.zeros((1, 6)))
    detector = YoloDetector(engine, CARD)
    engine.rows = np.array([[np.inf, 0, 1, 1, 0.1, 9], [5, 5, 20, 20, 0.9, 1]], np.float32)
    assert plain(detector.detect([black()])[0]) == [("dog", 0.9, (5, 5, 20, 20))]
    engine.rows = np.array(rows, np.float32)
    with pytest.raises(EngineRunError, match=message):
        detector.detect([black()])


def test_a_size_that_the_model_cannot_run_at(tmp_path):
    """Its graph says any size, its weights say 64."""
    nodes = [helper.make_node("Reshape", ["images", "shape"], ["flat"]), helper.make_node("ReduceMax", ["flat"], ["most"], keepdims=1)]
    path = tmp_path / "detector.onnx"
    save_model(
        path, nodes, [("images", "float32", ["N", 3, "h", "w"])], [("most", "float32", ["N", 1, 1])], {"shape": [-1, 3 * SIDE * SIDE, 1]}
    )
    (tmp_path / "detector.json").write_text(json.dumps({"classes": CLASSES, "size": [96, 70]}))
    with pytest.raises(ModelError, match=r"tried at 70x96.*state the size that it was exported for"):
        opened(tmp_path)


def test_a_batch_that_the_graph_does_not_keep(tmp_path):
    """It says N and has 1 in its weights."""
    write_identity(tmp_path / "detector.onnx", [IMAGES], [("output0", "float32", ["N", 7, 84])])
    (tmp_path / "detector.json").write_text(json.dumps({"classes": CLASSES}))
    detector = opened(tmp_path)
    assert detector.detect([black()]) == [()]
    with pytest.raises(EngineRunError, match=r"made \[1, 7, 84\] of 2 images: export it with a batch of 1"):
        detector.detect([black(), black()])


@pytest.mark.parametrize("threshold", [1.0, -0.5, float("nan")])
def test_a_threshold_that_makes_no_sense(tmp_path, threshold):
    with pytest.raises(ModelError, match="the detector's threshold is"):
        opened(folder_of(tmp_path, ROWS.T), threshold=threshold)
