import json

import numpy as np
import pytest

from trt_track.errors import TensorMismatchError
from trt_track.export.reference import Found
from trt_track.parity.measures import as_json, compare_outputs, compare_tracks, deviation, mask_iou
from trt_track.parity.thresholds import Thresholds

NAN, INF = float("nan"), float("inf")
SHIPPED = Thresholds.read()
EXACT = SHIPPED.traced("float32")


def mask(*rows):
    return np.array([[pixel == "#" for pixel in row] for row in rows])


@pytest.mark.parametrize(
    ("first", "second", "iou"),
    [
        (mask("..", ".."), mask("..", ".."), 1.0),
        (mask("#.", ".."), mask("..", ".."), 0.0),
        (mask("..", ".."), mask("##", "##"), 0.0),
        (mask("##", "##"), mask("##", "##"), 1.0),
        (mask("#.", ".."), mask("#.", "#."), 0.5),
        (mask("#.", ".#"), mask(".#", "#."), 0.0),
        (np.zeros((0, 0), bool), np.zeros((0, 0), bool), 1.0),
    ],
)
def test_mask_iou(first, second, iou):
    assert mask_iou(first, second) == mask_iou(second, first) == iou


@pytest.mark.parametrize(
    ("output", "got", "want", "absolute", "relative", "where"),
    [
        ("embed", [1.0, 2.0, 5.0], [1.0, 2.0, 5.0], 0.0, 0.0, (0,)),
        ("embed", [1.0, 2.5, 5.0], [1.0, 2.0, 5.0], 0.5, 0.125, (1,)),
        ("embed", [[0, 0], [0, -2]], [[0, 0], [0, 2]], 4.0, 2.0, (1, 1)),
        ("embed", [3.5, 3.0], [3.0, 3.0], 0.5, 0.5, (0,)),  # a constant is measured against 1
        ("iou", [0.75], [0.5], 0.25, 0.5, (0,)),  # a single number against itself
        ("iou", [0.25], [0.0], 0.25, 0.25, (0,)),
        ("mask", [0, 1, 1, 1], [0, 1, 0, 1], 1.0, 0.25, (2,)),  # of a mask the share of pixels
        ("mask", [0, 0], [0, 0], 0.0, 0.0, (0,)),
    ],
)
def test_deviation(output, got, want, absolute, relative, where):
    row = deviation("case", output, np.array(got, np.float32), np.array(want, np.float32), limits=EXACT)
    assert (row.absolute, row.relative, row.where) == (absolute, relative, where)
    assert row.passed == (relative == 0)


def test_bytes_do_not_wrap_around():
    row = deviation("case", "mask", np.array([0, 1], np.uint8), np.array([1, 1], np.uint8), limits=EXACT)
    assert (row.absolute, row.relative) == (1.0, 0.5)


@pytest.mark.filterwarnings("ignore:invalid value")  # inf - inf is what is being tested
@pytest.mark.parametrize(
    ("got", "want"),
    [([NAN, 1], [0, 1]), ([0, 1], [NAN, 1]), ([NAN, 1], [NAN, 1]), ([NAN, NAN], [0, 1]), ([INF, 1], [0, 1]), ([INF, 1], [INF, 1])],
)
@pytest.mark.parametrize("output", ["embed", "mask"])
def test_what_is_no_number_never_passes(output, got, want):
    row = deviation("case", output, np.array(got, np.float32), np.array(want, np.float32), limits=SHIPPED.traced("int8"))
    assert not row.passed
    assert row.where == (0,)


@pytest.mark.parametrize("got", [np.zeros(3), np.zeros((1, 2)), np.zeros((2, 1)), np.zeros(()), np.zeros(1)])
def test_other_shapes_are_refused_though_they_would_broadcast(got):
    with pytest.raises(TensorMismatchError, match=r"case, output 'embed': expected \[2\] as upstream has it, got "):
        deviation("case", "embed", got, np.zeros(2), limits=EXACT)


@pytest.mark.parametrize(
    ("dtype", "output", "tolerance"),
    [
        ("float32", "memory", 4e-3),
        ("float32", "mask", 1e-3),
        ("float32", "embed", 2e-4),
        ("float16", "memory", 2e-2),
        ("float16", "mask", 1e-2),
        ("float16", "embed", 2e-2),
    ],
)
def test_tolerance_is_that_of_the_output(dtype, output, tolerance):
    want = np.zeros(100_000)
    want[-1] = 1
    for factor, passes in ((0.9, True), (1.1, False)):
        got = want.copy()
        if output == "mask":
            got[: int(factor * tolerance * len(want))] = 1
        else:
            got[0] = factor * tolerance
        row = deviation("case", output, got, want, limits=SHIPPED.traced(dtype))
        assert row.tolerance == tolerance
        assert row.passed is passes


def test_outputs_are_compared_by_name():
    references = {"iou": np.ones(2), "pointer": np.arange(4.0)}
    rows = compare_outputs("case", {"pointer": np.arange(4.0), "iou": np.array([1.0, 2.0])}, references, limits=EXACT)
    assert [(row.case, row.output, row.passed) for row in rows] == [("case", "iou", False), ("case", "pointer", True)]


CORNER, NOTHING = mask("#.", ".."), mask("..", "..")


def found(logits=(-1.0, 1.0), drawn=CORNER):
    return Found(np.array(logits, np.float32).reshape(1, 1, -1), drawn, drawn)


class TestTracks:
    def compare(self, ours, theirs, precision="fp32"):
        return compare_tracks("case", ours, theirs, limits=SHIPPED.track(precision, ()))

    def test_equal(self):
        track = {frame: {1: found(), 2: found(drawn=NOTHING)} for frame in (3, 4)}
        rows = self.compare(track, track)
        assert [(row.frame, row.object_id, row.logits, row.iou, row.pixels, row.passed) for row in rows] == [
            (3, 1, 0.0, 1.0, 1, True),
            (3, 2, 0.0, 1.0, 0, True),
            (4, 1, 0.0, 1.0, 1, True),
            (4, 2, 0.0, 1.0, 0, True),
        ]

    @pytest.mark.parametrize(
        ("ours", "theirs", "passed"),
        [
            (found(), found(), True),
            (found(logits=(-1, 1 + 1.8e-3)), found(), True),
            (found(logits=(-1, 1 + 2.2e-3)), found(), False),
            (found(drawn=mask("##", "..")), found(), False),
            (found(drawn=NOTHING), found(), False),
            (found(), found(drawn=NOTHING), False),
            (found(logits=(NAN, 1)), found(), False),
            (found(), found(logits=(NAN, 1)), False),
            (found(logits=(3, 3)), found(logits=(3, 3)), True),
        ],
    )
    def test_both_logits_and_mask_must_agree(self, ours, theirs, passed):
        (row,) = self.compare({0: {1: ours}}, {0: {1: theirs}})
        assert row.passed is passed

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [({}, {0: {1: found()}}), ({0: {1: found()}}, {}), ({0: {}}, {0: {1: found()}}), ({1: {1: found()}}, {0: {1: found()}})],
    )
    def test_what_only_one_of_both_has_fails(self, ours, theirs):
        rows = self.compare(ours, theirs)
        assert rows
        assert not any(row.passed for row in rows)
        assert {(row.logits, row.iou) for row in rows} == {(INF, 0.0)}

    def test_nothing_is_nothing(self):
        assert self.compare({}, {}) == []

    def test_bounds_are_those_of_the_precision(self):
        pair = {0: {1: found(logits=(-1, 1.1))}}, {0: {1: found()}}
        assert [self.compare(*pair, precision=precision)[0].passed for precision in ("fp32", "fp16")] == [False, True]

    @pytest.mark.parametrize(("side", "precision", "passed"), [(10, "fp16", True), (11, "fp16", False), (10, "fp32", False)])
    def test_where_the_reference_has_few_pixels_fp32_alone_is_judged(self, side, precision, passed):
        large, larger = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
        large[: side - 1, :side] = larger[:side, :side] = True
        (row,) = self.compare({0: {1: found(drawn=larger)}}, {0: {1: found(drawn=large)}}, precision)
        assert row.iou < 0.95
        assert row.passed is passed


def test_rows_become_json_with_their_verdict():
    rows = [
        deviation("graph", "iou", np.ones(2), np.ones(2), limits=EXACT),
        *compare_tracks("track", {0: {1: found()}}, {0: {1: found()}}, limits=SHIPPED.track("fp32", ())),
    ]
    told = json.loads(json.dumps(as_json(rows)))
    assert [row["passed"] for row in told] == [True, True]
    assert told[0]["where"] == [0]
    assert told[1] == {
        "case": "track",
        "frame": 0,
        "object_id": 1,
        "logits": 0.0,
        "iou": 1.0,
        "filled_iou": 1.0,
        "pixels": 1,
        "passed": True,
    }
