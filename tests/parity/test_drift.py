"""Trackers side by side: what each says of a frame, compared, and nothing kept."""

import json
import shutil
from contextlib import closing

import numpy as np
import pytest

from trt_track.engines.bundle import Bundle
from trt_track.errors import BundleError, ModelError
from trt_track.export.reference import Found
from trt_track.parity.bundle_reference import BundleReference, open_reference
from trt_track.parity.cases import all_cases, default_prompts
from trt_track.parity.drift import Seen, boundary_measure, compare_frame, follow, seen_in
from trt_track.parity.first_frames import FirstFrames
from trt_track.parity.upstream_drift import UpstreamReference
from trt_track.runtime.held_clip import HeldClip
from trt_track.runtime.results import FrameResult

FULL, HALF, NONE = np.ones((4, 4), bool), np.tile([True, True, False, False], (4, 1)), np.zeros((4, 4), bool)


def seen(mask=FULL, *, logits=(-1.0, 1.0), present=True, chosen=2):
    return Seen(mask, np.array(logits, np.float32).reshape(1, 1, -1), present, chosen)


def compare(found, wanted, measure=None):
    (row,) = compare_frame(5, {1: found}, {1: wanted}, measure)
    return row


def result(frame, *, masks=(FULL,), presence=(1.0,), chosen=(2,), logits=True):
    count = len(masks)
    return FrameResult(
        frame,
        frame / 25,
        tuple(range(1, count + 1)),
        np.stack(masks),
        np.ones(count, np.float32),
        np.array(presence, np.float32),
        np.zeros((count, 1, 2, 2), np.float32) if logits else None,
        chosen=None if chosen is None else np.array(chosen, np.int32),
    )


class Clip:
    """Stands in for a `Video` that finds these results."""

    def __init__(self, results):
        self.results, self.asked, self.closed = results, [], 0

    def propagate(self, **asked):
        self.asked.append(asked)
        try:
            yield from self.results
        finally:
            self.closed += 1


@pytest.mark.parametrize(
    ("found", "wanted", "iou", "logits", "presence", "choice"),
    [
        (seen(), seen(), 1.0, 0.0, False, False),
        (seen(HALF), seen(), 0.5, 0.0, False, False),
        (seen(NONE), seen(NONE), 1.0, 0.0, False, False),
        (seen(logits=(-1.0, 1.5)), seen(), 1.0, 0.25, False, False),
        (seen(chosen=3), seen(), 1.0, 0.0, False, True),
        (seen(chosen=3, present=False), seen(present=False), 1.0, 0.0, False, False),  # neither sees it: no choice that counts
        (seen(NONE, present=False, logits=(-1024, -1024)), seen(), 0.0, None, True, False),
        (seen(chosen=None), seen(), 1.0, 0.0, False, None),
        (seen(), seen(chosen=None), 1.0, 0.0, False, None),
    ],
)
def test_one_object(found, wanted, iou, logits, presence, choice):
    row = compare(found, wanted)
    assert (row.iou, row.logits, row.presence_differs, row.choice_differs) == (iou, logits, presence, choice)
    assert (row.pixels, row.found_pixels) == (wanted.mask_hw.sum(), found.mask_hw.sum())
    assert (row.frame, row.object_id, row.boundary_f) == (5, 1, None)


def test_outlines_are_measured_by_what_is_given_found_mask_first():
    assert compare(seen(HALF), seen(), lambda found, truth: float(found.sum()) / float(truth.sum())).boundary_f == 0.5


def test_an_object_that_only_one_of_both_has_is_wholly_off():
    rows = compare_frame(0, {1: seen(), 2: seen(HALF)}, {1: seen(), 3: seen()}, lambda *_: 1.0)
    assert [(row.object_id, row.iou, row.boundary_f, row.pixels, row.found_pixels) for row in rows] == [
        (1, 1.0, 1.0, 16, 16),
        (2, 0.0, 0.0, 0, 8),
        (3, 0.0, 0.0, 16, 0),
    ]
    assert [row.presence_differs for row in rows] == [False, True, True]


def test_what_a_result_says():
    found = seen_in(result(0, masks=(FULL, NONE), presence=(0.5, 0.0), chosen=(1, 3)))
    assert {number: (one.present, one.chosen, int(one.mask_hw.sum())) for number, one in found.items()} == {
        1: (True, 1, 16),
        2: (False, 3, 0),
    }
    assert seen_in(result(0, chosen=None))[1].chosen is None
    with pytest.raises(ValueError, match="keep_logits"):
        seen_in(result(0, logits=False))


def test_trackers_go_side_by_side_and_are_closed():
    ours, theirs = Clip([result(frame, masks=(HALF,)) for frame in range(9)]), Clip([result(frame) for frame in range(9)])
    with BundleReference(theirs) as reference, closing(follow(ours, {"fp32": reference}, measure=None)) as frames:
        for number, frame in enumerate(frames):
            assert (frame.result.frame_index, [row.iou for row in frame.rows["fp32"]]) == (number, [0.5])
            if number == 3:
                break
    assert (ours.closed, theirs.closed) == (1, 1)
    assert ours.asked == [{"keep_logits": True, "keep_video": False}]
    assert theirs.asked == [{"keep_logits": True}]


@pytest.mark.parametrize("results", [[], [result(1)]])
def test_a_reference_at_another_frame_is_no_reference(results):
    with BundleReference(Clip(results)) as reference, pytest.raises(ValueError, match=r"the reference is at frame (None|1), not 0"):
        reference(0)


def test_upstream_says_by_its_logits_whether_an_object_is_there():
    absent, present = np.full((1, 2, 2), -1024, np.float32), np.full((1, 2, 2), -10, np.float32)
    reference = UpstreamReference({0: {1: Found(absent, NONE, NONE), 2: Found(present, FULL, HALF, chosen=3)}})
    found = reference(0)
    assert {number: (one.present, one.chosen) for number, one in found.items()} == {1: (False, None), 2: (True, 3)}
    assert found[2].mask_hw is HALF  # with small holes filled
    assert reference(0) == {}


class TestFirstFrames:
    @pytest.fixture
    def clip(self):
        pictures = [np.full((8, 8, 3), index, np.uint8) for index in range(10)]
        return HeldClip.of_pictures(pictures, size=8)

    @pytest.mark.parametrize(("frames", "count"), [(4, 4), (10, 10), (99, 10)])
    def test_a_clip_ends_early(self, clip, frames, count):
        source = FirstFrames(clip, frames)
        assert source.info.frame_count == count
        assert [frame.index for frame in source.frames(size=8)] == list(range(count))
        assert [frame.index for frame in source.frames(size=8, reverse=True)] == list(range(count))[::-1]
        assert [frame.index for frame in source.frames(size=8, start=2, stop=3)] == [2]


class TestReference:
    @pytest.fixture
    def other(self, tiny_bundle, tmp_path):
        """The same bundle with another manifest, which is all that is looked at."""

        def write(**changes):
            folder = shutil.copytree(tiny_bundle, tmp_path / "other")
            manifest = json.loads((tiny_bundle / "manifest.json").read_text())
            manifest["model"] |= changes.pop("model", {})
            (folder / "manifest.json").write_text(json.dumps(manifest | changes))
            return folder

        return write

    def test_the_same_weights_fit(self, tiny_bundle, other):
        reference = open_reference(other(), Bundle.open(tiny_bundle))
        assert reference.model == Bundle.open(tiny_bundle).model

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"source": "random weights, seed 1"}, "source is random weights, seed 1, that of "),
            ({"source_sha256": "ab"}, "source_sha256 is ab, that of "),
            ({"model": {"image_size": 256}}, "is of 256 px, "),
            ({"model": {"memory_frames": 3}}, "model is ModelSpec"),
            ({"dtypes": {"image_encoder": "float16"}, "precision": "fp16"}, "computes in fp16: give an FP32 bundle of the same weights"),
        ],
    )
    def test_others_are_refused(self, tiny_bundle, other, changes, message):
        with pytest.raises(ModelError) as refused:
            open_reference(other(**changes), Bundle.open(tiny_bundle))
        assert message in str(refused.value)

    def test_what_is_no_bundle(self, tiny_bundle, tmp_path):
        with pytest.raises(BundleError, match="is not a bundle"):
            open_reference(tmp_path, Bundle.open(tiny_bundle))


def test_default_prompts_are_those_of_the_cases():
    cases = {case.name: case.prompts[0] for case in all_cases(20, 640, 480)}
    box, click = default_prompts(640, 480)
    assert (box.frame, click.frame, box.object_id, click.object_id) == (0, 0, 1, 2)
    np.testing.assert_array_equal(box.box_xyxy_px, cases["box"].box_xyxy_px)
    np.testing.assert_array_equal(click.points_xy_px, cases["one click"].points_xy_px)


def test_the_measure_of_outlines_takes_the_found_mask_and_the_reference():
    measure = boundary_measure()
    assert measure is not None
    drawn = np.zeros((60, 80), bool)
    drawn[20:40, 20:50] = True
    assert measure(drawn, drawn) == 1.0
    assert measure(np.zeros_like(drawn), drawn) == 0.0
