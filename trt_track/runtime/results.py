"""What the tracker says of one frame: the value that passes from the loop to the writers and to users."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trt_track.errors import TensorMismatchError

if TYPE_CHECKING:
    from supervision import Detections


@dataclass(frozen=True, slots=True)
class FrameResult:
    """The objects of one frame. Checked on construction; B may be 0.

    Raises:
        TensorMismatchError: the arrays do not agree with each other or with `object_ids`.
    """

    frame_index: int
    """Number of the frame in the clip, from 0."""
    time_s: float
    """Seconds since the clip's first frame."""
    object_ids: tuple[int, ...]
    """B ids, as the prompts gave them; every array below has their order."""
    masks: npt.NDArray[Any]
    """(B, H, W) bool, or uint8 0 and 1, in displayed video pixels."""
    ious: npt.NDArray[np.float32]
    """(B,) float32, 0 to 1: how well the model believes each mask fits (predicted IoU)."""
    presence: npt.NDArray[np.float32]
    """(B,) float32 logits, > 0 where the object is in the frame."""
    logits: npt.NDArray[np.float32] | None = None
    """(B, 1, S/4, S/4) float32 of the decoder, > 0 inside the object, before small holes are filled; None if not kept."""
    video_rgb_hwc: npt.NDArray[np.uint8] | None = None
    """(H, W, 3) uint8 RGB, the frame itself; None if not kept."""
    labels: tuple[str, ...] = ()
    """What each object is, for objects that a detector found; empty where objects have no names."""
    chosen: npt.NDArray[np.int32] | None = None
    """(B,) int32, which of the decoder's four candidates each mask is: 0 the single one, 1 to 3 the best of three; None if logits are not
    kept. A drawn mask is none of them: there it tells what the decoder would have chosen."""

    def __post_init__(self) -> None:
        count = len(self.object_ids)
        if len(set(self.object_ids)) != count:
            raise TensorMismatchError(f"frame {self.frame_index}: an object id occurs twice in {self.object_ids}")
        self._expect("masks", self.masks, (count, None, None), ("bool", "uint8"))
        self._expect("ious", self.ious, (count,), ("float32",))
        self._expect("presence", self.presence, (count,), ("float32",))
        if self.logits is not None:
            self._expect("logits", self.logits, (count, 1, None, None), ("float32",))
        if self.chosen is not None:
            self._expect("chosen", self.chosen, (count,), ("int32",))
        if self.labels and len(self.labels) != count:
            raise TensorMismatchError(f"frame {self.frame_index}: {len(self.labels)} labels for {count} objects")
        if self.video_rgb_hwc is not None:
            self._expect("video_rgb_hwc", self.video_rgb_hwc, (*self.masks.shape[1:], 3), ("uint8",))

    def _expect(self, name: str, array: npt.NDArray[Any], shape: tuple[int | None, ...], dtypes: tuple[str, ...]) -> None:
        fits = array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
        if not fits or array.dtype.name not in dtypes:
            wanted = " or ".join(dtypes) + str(["any" if size is None else size for size in shape]).replace("'", "")
            raise TensorMismatchError(f"frame {self.frame_index}: {name}: expected {wanted}, got {array.dtype}{list(array.shape)}")

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """(B,) float32, 0 to 1: predicted IoU times the probability that the object is there, sigmoid(presence)."""
        # tanh form: exp() of a large negative logit would overflow
        return np.asarray(self.ious * (0.5 + 0.5 * np.tanh(0.5 * self.presence)), np.float32)

    def detections(self) -> Detections:
        """Return the objects with a mask that is not empty as `supervision.Detections`; the ids become `tracker_id`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it recommends OpenCV, which we do without
            from supervision import Detections
        boxes = mask_boxes(self.masks)
        seen = boxes[:, 2] > 0
        ids = np.array(self.object_ids, np.int64)[seen]
        return Detections(
            xyxy=boxes[seen].astype(np.float32),
            mask=self.masks[seen].astype(bool),
            confidence=self.scores[seen],
            class_id=ids,
            tracker_id=ids,
        )


def mask_boxes(masks_bhw: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the tight box of each mask.

    Args:
        masks_bhw: (B, H, W) bool or uint8.

    Returns:
        (B, 4) int64 x0, y0, x1, y1 in pixels; x1 and y1 are exclusive (last pixel + 1), so that x1 - x0 is the width. All 0 for an
        empty mask.
    """
    boxes = np.zeros((len(masks_bhw), 4), np.int64)
    for box, mask in zip(boxes, masks_bhw, strict=True):
        rows = np.flatnonzero(mask.any(axis=1))
        if rows.size:
            y0, y1 = rows[0], rows[-1] + 1
            columns = np.flatnonzero(mask[y0:y1].any(axis=0))
            box[:] = columns[0], y0, columns[-1] + 1, y1
    return boxes
