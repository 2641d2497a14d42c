import numpy as np
import pytest

from trt_track.errors import TensorMismatchError
from trt_track.runtime.results import FrameResult, mask_boxes


def result(count=2, **changes):
    values = {
        "frame_index": 3,
        "time_s": 0.12,
        "object_ids": tuple(range(1, count + 1)),
        "masks": np.zeros((count, 8, 10), bool),
        "ious": np.full(count, 0.8, np.float32),
        "presence": np.zeros(count, np.float32),
    }
    return FrameResult(**(values | changes))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_any_number_of_objects(count):
    assert result(count).scores.shape == (count,)
    assert result(count, logits=np.zeros((count, 1, 4, 4), np.float32), video_rgb_hwc=np.zeros((8, 10, 3), np.uint8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masks": np.zeros((1, 8, 10), bool)}, r"masks: expected bool or uint8\[2, any, any\], got bool\[1, 8, 10\]"),
        ({"masks": np.zeros((2, 8, 10), np.float32)}, "got float32"),
        ({"ious": np.zeros(3, np.float32)}, "ious: expected"),
        ({"presence": np.zeros(2)}, "presence: expected float32"),
        ({"logits": np.zeros((2, 4, 4), np.float32)}, "logits: expected"),
        ({"video_rgb_hwc": np.zeros((10, 8, 3), np.uint8)}, "video_rgb_hwc: expected"),
        ({"object_ids": (4, 4)}, "occurs twice"),
    ],
)
def test_arrays_that_do_not_agree(changes, message):
    with pytest.raises(TensorMismatchError, match=message):
        result(**changes)


def test_score_is_iou_times_presence():
    scores = result(3, presence=np.array([0, 100, -1000], np.float32)).scores
    np.testing.assert_allclose(scores, [0.4, 0.8, 0.0], atol=1e-6)
    assert scores.dtype == np.float32


def test_boxes_end_after_the_last_pixel():
    masks = np.zeros((3, 8, 10), bool)
    masks[0, 2:5, 3:9] = True
    masks[2, 7, 9] = True
    np.testing.assert_array_equal(mask_boxes(masks), [[3, 2, 9, 5], [0, 0, 0, 0], [9, 7, 10, 8]])
    assert mask_boxes(masks[:0]).shape == (0, 4)


def test_detections_leave_out_empty_masks():
    masks = np.zeros((2, 8, 10), np.uint8)
    masks[1, 2:5, 3:9] = 1
    detections = result(2, object_ids=(5, 7), masks=masks, presence=np.full(2, 100, np.float32)).detections()
    assert detections.tracker_id.tolist() == [7]
    assert detections.xyxy.tolist() == [[3, 2, 9, 5]]
    assert detections.mask.dtype == bool
    assert detections.confidence == pytest.approx([0.8])
    assert len(result(0).detections()) == 0
