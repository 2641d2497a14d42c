"""Rows of drift runs that tests are made of."""

from trt_track.parity.drift import DriftRow


def row(frame, iou=1.0, *, object_id=1, pixels=1000, found_pixels=None, **others):
    """A row whose masks are large and which is otherwise as good as can be."""
    values = {"boundary_f": 1.0, "logits": 0.0, "presence_differs": False, "choice_differs": False, **others}
    return DriftRow(frame, object_id, iou, pixels=pixels, found_pixels=pixels if found_pixels is None else found_pixels, **values)
