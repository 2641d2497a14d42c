"""The books of ids, on drawn rectangles: who is matched, started, dropped, brought back and stopped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from trt_track.errors import PromptError
from trt_track.runtime.appearance import Appearance, Sighting, affinity, box_iou, colour_histogram, look_of, regions_of, similarity, span
from trt_track.runtime.detections import Detection
from trt_track.runtime.identity import IdentityBook, assign, distinct_boxes
from trt_track.runtime.identity_rules import IdentityRules
from trt_track.runtime.results import FrameResult

SIZE_WH = (100, 60)
RED, GREEN, BLUE = (220, 30, 30), (30, 200, 40), (30, 40, 210)


def shape(*boxes):
    """Return the mask (H, W) that covers some boxes."""
    mask = np.zeros(SIZE_WH[::-1], bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


def result(frame=0, tracks=None, *, painted=()):
    """Return a frame on which each track covers a box or a mask; `painted` are (box, colour) over a grey ground."""
    picture = np.full((*SIZE_WH[::-1], 3), 128, np.uint8)
    for (x0, y0, x1, y1), colour in painted:
        picture[y0:y1, x0:x1] = colour
    masks = [mask if isinstance(mask, np.ndarray) else shape(mask) for mask in (tracks or {}).values()]
    seen = np.array([5.0 if mask.any() else -5.0 for mask in masks], np.float32)
    stacked = np.array(masks, bool).reshape(-1, *SIZE_WH[::-1])
    return FrameResult(frame, frame / 30, tuple(tracks or {}), stacked, np.ones(len(masks), np.float32), seen, video_rgb_hwc=picture)


def box(*corners, label="cat", score=0.9):
    return Detection(np.array(corners, np.float32), score, label)


LEFT, RIGHT, MIDDLE = (5, 10, 25, 40), (70, 15, 95, 45), (40, 10, 60, 50)
COLOURS = ((LEFT, RED), (RIGHT, GREEN), (MIDDLE, BLUE))
NOWHERE = np.zeros(SIZE_WH[::-1], bool)


def open_book(*boxes, **rules):
    """Return books in which each of the boxes is an object, from 1, with a track of the same number."""
    book = IdentityBook(IdentityRules(**rules), max_objects=8)
    found = [box(*corners, score=0.9 - i / 100) for i, corners in enumerate(boxes)]
    plan = book.plan(result(), found)
    assert [start.track for start in plan.start] == list(range(1, len(boxes) + 1))
    assert book.settle(first := result(0, dict(enumerate(boxes, 1)), painted=COLOURS)) == ()
    assert book.observe(first) == ()
    return book


class TestMeasures:
    @pytest.mark.parametrize(
        ("corners", "mask", "fits"),
        [
            (LEFT, shape(LEFT), 1.0),
            (LEFT, shape(RIGHT), 0.0),
            ((5, 10, 25, 40), shape((5, 10, 25, 25)), 0.5),  # the mask is half of the box
            ((5, 10, 25, 25), shape((5, 10, 25, 40)), 0.5),  # the box is half of the mask
            ((5, 10, 25, 40), shape((5, 25, 25, 55)), 0.25),  # half and half
            ((0, 0, 100, 60), shape((40, 20, 50, 26)), 0.01),  # a small thing in a large box
            ((40, 20, 50, 26), shape((0, 0, 100, 60)), 0.01),  # and the other way round
            (LEFT, shape(LEFT, (98, 55, 100, 57)), 600 / 604),  # strays far away count by their number
            ((5.4, 9.6, 25.3, 40.4), shape(LEFT), 1.0),
            ((50.1, 20.2, 50.3, 20.4), shape((50, 20, 51, 21)), 1.0),  # less than a pixel
        ],
    )
    def test_affinity_of_a_box_and_a_mask(self, corners, mask, fits):
        assert affinity(corners, regions_of(result(0, {1: mask}))[1]) == pytest.approx(fits)

    def test_affinity_is_close_to_iou_for_boxes_that_are_shifted(self):
        rng = np.random.default_rng(0)
        for _ in range(200):
            x, y = rng.integers(0, 12, 2)
            corners = (20 + x, 10 + y, 60 + x, 40 + y)
            iou = box_iou(corners, (20, 10, 60, 40))
            assert abs(affinity(corners, regions_of(result(0, {1: (20, 10, 60, 40)}))[1]) - iou) < 0.13

    def test_regions_are_of_what_is_in_the_frame(self):
        assert regions_of(result()) == {}
        seen = result(0, {3: LEFT, 5: NOWHERE, 8: RIGHT})
        seen.presence[2] = -0.1
        assert {track: region.box_xyxy_px for track, region in regions_of(seen).items()} == {3: LEFT}

    def test_regions_overlap(self):
        regions = regions_of(result(0, {1: (0, 0, 20, 20), 2: (10, 0, 30, 20), 3: (50, 50, 60, 60), 4: (10, 10, 20, 60)}))
        assert regions[1].iou(regions[1]) == 1
        assert regions[1].iou(regions[2]) == pytest.approx(200 / 600)
        assert regions[1].iou(regions[3]) == regions[3].iou(regions[1]) == 0
        assert regions[1].share_under([]) == 0
        assert regions[1].share_under([regions[2], regions[3]]) == 0.5
        assert regions[1].share_under([regions[2], regions[4]]) == 0.5
        assert regions[4].share_under([regions[1], regions[2]]) == pytest.approx(0.2)
        inner, outer = regions[1].split((5, -3, 100, 10))
        assert (inner.area_px, outer.area_px) == (150, 250)
        assert span((0, 0, 40, 40), [regions[1], regions[2]]) == pytest.approx(600 / 1600)
        assert span((0, 0, 40, 40), []) == span((62, 0, 90, 40), [regions[1], regions[3]]) == 0

    def test_measures_agree_with_pixels_that_are_counted(self):
        rng = np.random.default_rng(1)
        for _ in range(50):
            masks = {i: shape(*[(*low, *(low + rng.integers(1, 30, 2))) for low in rng.integers(0, 60, (2, 2))]) for i in range(3)}
            regions = regions_of(result(0, masks))
            assert regions[0].iou(regions[1]) == pytest.approx((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())
            assert regions[0].share_under([regions[1], regions[2]]) == pytest.approx(
                (masks[0] & (masks[1] | masks[2])).sum() / masks[0].sum()
            )

    def test_colours(self):
        red, nearly, green = (colour_histogram(np.full((9, 9, 3), colour, np.uint8)) for colour in (RED, (226, 26, 34), GREEN))
        assert red.sum() == pytest.approx(1)
        assert similarity(red, red) == pytest.approx(1)
        assert similarity(red, nearly) > 0.75 > similarity(red, green)

    def test_a_grey_level_over_the_edge_of_a_bin_changes_little(self):
        dark, light = (colour_histogram(np.full((9, 9, 3), value, np.uint8)) for value in (127, 128))
        assert similarity(dark, light) > 0.8

    def test_the_look_of_a_large_object_is_that_of_all_its_pixels(self):
        picture = np.random.default_rng(0).integers(0, 255, (700, 700, 3)).astype(np.uint8)
        picture[:350] //= 3
        mask = np.zeros((1, 700, 700), bool)
        mask[0, 20:690, 5:] = True
        ones = np.ones(1, np.float32)
        region = regions_of(FrameResult(0, 0.0, (1,), mask, ones, ones))[1]
        assert similarity(look_of(picture, region), colour_histogram(picture[mask[0]])) > 0.98

    def test_looks_are_remembered_as_their_mean_and_the_newest_counts_for_a_tenth_at_least(self):
        red, blue = (colour_histogram(np.full((4, 4, 3), colour, np.uint8)) for colour in (RED, BLUE))
        remembered = Appearance(Sighting(0, LEFT, red))
        for frame in (1, 2, 3):
            remembered.learn(Sighting(frame, LEFT, blue))
        np.testing.assert_allclose(remembered.look, 0.25 * red + 0.75 * blue, atol=1e-6)
        for frame in range(4, 40):
            remembered.learn(Sighting(frame, LEFT, blue))
        before = remembered.look
        remembered.learn(Sighting(40, LEFT, red))
        np.testing.assert_allclose(remembered.look, 0.9 * before + 0.1 * red, atol=1e-6)

    def test_place_decides_between_equal_looks_and_movement_is_followed(self):
        look = colour_histogram(np.full((4, 4, 3), 90, np.uint8))
        right, left = (Appearance(Sighting(0, (x, 20, x + 10, 30), look)) for x in (10, 80))
        right.learn(Sighting(10, (30, 20, 40, 30), look))
        left.learn(Sighting(10, (60, 20, 70, 30), look))
        crossed = Sighting(20, (50, 20, 60, 30), look)
        assert right.likeness(crossed) == pytest.approx(1.2)
        assert left.likeness(crossed) < 1.15


class TestRules:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"max_lost": 0},
            {"same_object": 0},
            {"same_look": 1.2},
            {"fit": -1},
            {"same_mask": float("nan")},
            {"refresh": -0.1},
            {"look_back": -1},
            {"refresh": 2},
        ],
    )
    def test_that_make_no_sense_are_refused(self, wrong):
        with pytest.raises(PromptError, match="give"):
            IdentityRules(**wrong)


class TestPlan:
    def test_nothing(self):
        book = open_book()
        for frame in (0, 10):
            plan = book.plan(result(frame), [])
            assert (plan.stop, plan.start, plan.confirmed, plan.duplicates, plan.left_out) == ((), (), {}, (), ())
            assert book.settle(result(frame)) == book.observe(result(frame)) == ()
        assert book.objects == {}

    def test_nothing_found_changes_nothing(self):
        book = open_book(LEFT, RIGHT)
        plan = book.plan(result(10, {1: LEFT, 2: RIGHT}, painted=COLOURS), [])
        assert (plan.stop, plan.start, plan.confirmed) == ((), (), {})

    def test_found_again_is_confirmed_and_one_more_is_started(self):
        book = open_book(LEFT, RIGHT)
        plan = book.plan(result(10, {1: LEFT, 2: RIGHT}, painted=COLOURS), [box(*MIDDLE), box(*RIGHT), box(6, 9, 24, 42)])
        assert plan.confirmed == {2: 1, 1: 2}
        assert [(start.track, start.box_xyxy_px.tolist()) for start in plan.start] == [(3, list(MIDDLE))]
        assert plan.duplicates == plan.left_out == plan.stop == ()

    def test_matching_is_one_to_one_and_the_best_on_the_whole(self):
        book = open_book((10, 10, 40, 40), (22, 10, 52, 40))
        seen = result(10, {1: (10, 10, 40, 40), 2: (22, 10, 52, 40)})
        # Both boxes fit the second track best, but together they fit best the other way round.
        plan = book.plan(seen, [box(20, 10, 50, 40, score=0.9), box(28, 10, 58, 40, score=0.8)])
        assert plan.confirmed == {1: 0, 2: 1}

    @pytest.mark.parametrize(("refresh", "corrected"), [(1, [1, 2]), (0.9, [2]), (0.5, []), (0, [])])
    def test_confirmed_tracks_that_fit_their_boxes_badly_are_corrected(self, refresh, corrected):
        book = open_book(LEFT, RIGHT, refresh=refresh)
        shifted = (70, 15, 95, 40)  # of 30 rows 25
        plan = book.plan(result(10, {1: LEFT, 2: RIGHT}, painted=COLOURS), [box(*LEFT), box(*shifted)])
        assert set(plan.confirmed) == {1, 2}
        assert [(one.track, tuple(one.box_xyxy_px.tolist())) for one in plan.correct] == [
            (track, {1: LEFT, 2: shifted}[track]) for track in corrected
        ]

    def test_labels_must_agree(self):
        near = (11, 10, 31, 40)  # an affinity of 0.49: enough for the track's own label
        for label, confirmed, started in (("dog", {}, [2]), ("cat", {1: 0}, [])):
            plan = open_book(LEFT).plan(result(10, {1: LEFT}, painted=COLOURS), [box(*near, label=label)])
            assert plan.confirmed == confirmed
            assert [start.track for start in plan.start] == started

    def test_a_box_that_hardly_touches_is_a_new_object(self):
        book = open_book(LEFT)
        seen = result(10, {1: LEFT}, painted=COLOURS)
        assert book.plan(seen, [box(16, 10, 36, 40)]).confirmed == {}
        book = open_book(LEFT)
        assert book.plan(seen, [box(12, 10, 32, 40)]).confirmed == {1: 0}

    def test_second_boxes_are_dropped_whatever_their_label(self):
        found = [box(6, 10, 26, 40, score=0.5), box(*LEFT), box(5, 11, 25, 40, label="dog", score=0.6)]
        plan = open_book().plan(result(), found)
        assert [start.box_xyxy_px.tolist() for start in plan.start] == [list(LEFT)]
        assert plan.duplicates == (0, 2)

    def test_a_box_around_a_group_is_dropped(self):
        book = open_book(LEFT, (26, 8, 45, 40))
        plan = book.plan(result(10, {1: LEFT, 2: (26, 8, 45, 40)}, painted=COLOURS), [box(4, 8, 46, 41), box(*LEFT), box(26, 8, 45, 40)])
        assert plan.start == ()
        assert plan.duplicates == (0,)

    def test_a_large_object_around_a_small_one_is_none_of_its_group(self):
        book = open_book((40, 20, 50, 30))
        plan = book.plan(result(10, {1: (40, 20, 50, 30)}, painted=COLOURS), [box(20, 5, 80, 55)])
        assert len(plan.start) == 1

    def test_of_two_tracks_on_one_object_the_less_alike_is_stopped(self):
        for stray, colour in ((2, RED), (1, GREEN)):
            book = open_book(LEFT, RIGHT)
            plan = book.plan(result(10, {1: MIDDLE, 2: MIDDLE}, painted=[(MIDDLE, colour)]), [])
            assert plan.stop == (stray,)

    @pytest.mark.parametrize(("label", "stray"), [("dog", 1), ("cat", 2), ("bird", 2)])
    def test_of_two_tracks_on_one_object_the_one_that_no_box_names_is_stopped(self, label, stray):
        book = IdentityBook(IdentityRules(), max_objects=8)
        book.plan(result(), [box(*LEFT, label="cat"), box(*RIGHT, label="dog", score=0.8)])
        book.settle(result(0, {1: LEFT, 2: RIGHT}, painted=[(LEFT, RED), (RIGHT, RED)]))
        now = result(10, {1: LEFT, 2: LEFT}, painted=[(LEFT, RED)])  # by its colours and its place it is the first one
        assert book.plan(now, [box(*LEFT, label=label)]).stop == (stray,)

    def test_a_track_that_no_box_confirms_and_that_shows_other_colours_went_astray(self):
        for painted, found, started, astray in (
            ([(MIDDLE, BLUE)], [], 0, True),
            ([(MIDDLE, RED)], [], 0, False),
            ([(MIDDLE, BLUE)], [box(*MIDDLE)], 0, False),  # the box knows better than the colours
            ([(MIDDLE, BLUE)], [box(*MIDDLE, label="dog")], 1, True),
        ):
            book = open_book(LEFT, RIGHT)
            now = replace(
                result(10, {1: MIDDLE, 2: RIGHT}, painted=[*painted, (RIGHT, GREEN)]), logits=np.full((2, 1, 2, 2), 3, np.float32)
            )
            plan = book.plan(now, found)
            assert (plan.stop, len(plan.start)) == ((), started)
            assert (book.public(now).masks is now.masks) == (not astray)
            assert book.public(now).masks.any(axis=(1, 2)).tolist() == [not astray, True]
            assert (book.public(now).presence > 0).tolist() == [not astray, True]
            assert (book.public(now).logits > 0).all(axis=(1, 2, 3)).tolist() == [not astray, True]

    def test_a_track_that_went_astray_counts_as_unseen_until_it_shows_its_object_again(self):
        elsewhere, back = ({"painted": [(where, colour)]} for where, colour in ((MIDDLE, BLUE), (MIDDLE, RED)))
        book = open_book(LEFT, max_lost=15)
        for frame, shown, seen in ((10, elsewhere, False), (12, None, False), (14, back, True), (20, elsewhere, False)):
            now = result(frame, {1: MIDDLE}, **(shown or {}))
            if shown:
                book.plan(now, [])
                book.settle(now)
            assert book.observe(now) == ()
            assert book.public(now).masks.any() == seen
        assert book.observe(result(29, {1: MIDDLE})) == (1,)

    def test_what_a_track_took_over_gets_its_old_id_when_its_label_is_found_there(self):
        book = IdentityBook(IdentityRules(), max_objects=8)
        book.plan(result(), [box(*LEFT, label="cat"), box(*RIGHT, label="dog", score=0.8)])
        book.settle(result(0, {1: LEFT, 2: RIGHT}, painted=COLOURS))
        jumped = {1: MIDDLE, 2: NOWHERE}
        book.plan(result(10, jumped, painted=[(MIDDLE, GREEN)]), [box(*MIDDLE, label="dog")])
        now = result(10, {**jumped, 3: MIDDLE}, painted=[(MIDDLE, GREEN)])
        assert book.settle(now) == (2,)
        assert {i: mask.any() for i, mask in zip(book.public(now).object_ids, book.public(now).masks, strict=True)} == {1: False, 2: True}
        assert list(book.begun) == [2]

    @pytest.mark.parametrize(("left", "colour", "expected"), [(48, RED, 1), (58, RED, 2), (48, BLUE, 2)])
    def test_an_object_that_its_mask_is_leaving_is_found_anew_under_its_id(self, left, colour, expected):
        """The mask still covers enough of the box, and what is in the box has the object's colours; else it is another object."""
        book = IdentityBook(IdentityRules(), max_objects=8)
        book.plan(result(), [box(*MIDDLE)])
        book.settle(result(0, {1: MIDDLE}, painted=[(MIDDLE, RED)]))
        leaving, painted = (left, 10, 90, 50), [((40, 10, 90, 50), RED), ((40, 10, 48, 50), colour), (MIDDLE, colour)]
        plan = book.plan(result(10, {1: leaving}, painted=painted), [box(*MIDDLE)])
        assert [start.track for start in plan.start] == [2]
        now = result(10, {1: leaving, 2: MIDDLE}, painted=painted)
        assert book.settle(now) == ((1,) if expected == 1 else ())
        assert dict(zip(now.object_ids, (None, *book.public(now).object_ids)[-2:], strict=True))[2] == expected

    def test_a_track_that_spread_over_a_second_object_is_started_anew_with_both_boxes(self):
        one, other = (10, 10, 40, 40), (42, 10, 70, 40)
        book = open_book(one)
        both = result(10, {1: shape(one, other)}, painted=[(one, RED), (other, BLUE)])
        plan = book.plan(both, [box(*other), box(*one, score=0.8)])
        assert plan.stop == (1,)
        assert plan.confirmed == {}
        tracks = {tuple(start.box_xyxy_px.tolist()): start.track for start in plan.start}
        assert set(tracks) == {one, other}
        now = result(10, {tracks[one]: one, tracks[other]: other}, painted=[(one, RED), (other, BLUE)])
        assert book.settle(now) == ()
        named = dict(zip(now.object_ids, book.public(now).object_ids, strict=True))
        assert named == {tracks[one]: 1, tracks[other]: 2}

    def test_a_mask_that_leaves_its_box_where_nothing_else_is_goes_on(self):
        book = open_book(LEFT)
        look = book.objects[1].appearance.look
        plan = book.plan(result(10, {1: (5, 10, 45, 40)}, painted=COLOURS), [box(*LEFT), box(*RIGHT)])
        assert plan.confirmed == {1: 0}
        assert plan.stop == ()
        assert book.objects[1].appearance.look is look  # the colours of such a mask are not learnt

    def test_what_is_confirmed_is_learnt(self):
        book = open_book(LEFT)
        book.plan(result(10, {1: MIDDLE}, painted=[(MIDDLE, BLUE)]), [box(*MIDDLE)])
        red, blue = (colour_histogram(np.array([[colour]], np.uint8)) for colour in (RED, BLUE))
        np.testing.assert_allclose(book.objects[1].appearance.look, (red + blue) / 2, atol=1e-6)

    def test_the_best_scored_are_started_where_there_is_no_room_for_all(self):
        book = IdentityBook(IdentityRules(), max_objects=2)
        found = [box(*LEFT, score=0.4), box(*RIGHT, score=0.8), box(*MIDDLE, score=0.6)]
        plan = book.plan(result(), found)
        assert [start.box_xyxy_px.tolist() for start in plan.start] == [list(RIGHT), list(MIDDLE)]
        assert plan.left_out == (0,)

    def test_tracks_that_are_not_seen_make_room_the_longest_unseen_first(self):
        book = IdentityBook(IdentityRules(), max_objects=2)
        book.plan(result(), [box(*LEFT), box(*RIGHT, score=0.8)])
        book.settle(result(0, {1: LEFT, 2: RIGHT}, painted=COLOURS))
        book.observe(result(5, {1: NOWHERE, 2: RIGHT}))
        plan = book.plan(result(10, {1: NOWHERE, 2: NOWHERE}), [box(*MIDDLE)])
        assert (plan.stop, [start.track for start in plan.start], plan.left_out) == ((1,), [3], ())

    @pytest.mark.parametrize(
        "names",
        [
            (("person", 0.9), ("man", 0.6)),
            (("person", 0.6), ("man", 0.9)),  # the track keeps its label
            (("man", 0.9),),  # its own name was not found this time
        ],
    )
    def test_a_second_name_of_one_thing_takes_no_hidden_object_s_place(self, names):
        book = IdentityBook(IdentityRules(), max_objects=2)
        book.plan(result(), [box(*LEFT, label="person"), box(*RIGHT, label="dog", score=0.8)])
        book.settle(result(0, {1: LEFT, 2: RIGHT}, painted=COLOURS))
        found = [box(*corners, label=name, score=score) for corners, (name, score) in zip((LEFT, (6, 10, 26, 41)), names, strict=False)]
        plan = book.plan(result(10, {1: LEFT, 2: NOWHERE}, painted=COLOURS), found)
        assert (plan.stop, plan.start, plan.left_out) == ((), (), ())
        assert plan.duplicates == tuple(i for i, (name, _) in enumerate(names) if name == "man")

    def test_of_two_names_of_a_new_thing_the_better_scored_holds_and_none_is_left_out(self):
        book = IdentityBook(IdentityRules(), max_objects=1)
        plan = book.plan(result(), [box(*LEFT, label="person", score=0.5), box(6, 10, 26, 40, label="man", score=0.7)])
        assert (len(plan.start), plan.duplicates, plan.left_out) == (1, (0,), ())
        book.settle(result(0, {1: LEFT}, painted=COLOURS))
        assert [known.label for known in book.objects.values()] == ["man"]

    def test_what_a_person_holds_is_no_second_name(self):
        ball = (10, 20, 18, 30)
        for others in ({}, {1: LEFT}):
            book = open_book(*([LEFT] if others else []))
            plan = book.plan(result(10, others, painted=COLOURS), [box(*LEFT), box(*ball, label="ball", score=0.5)])
            assert list(ball) in [start.box_xyxy_px.tolist() for start in plan.start]

    def test_a_second_name_claims_nothing_that_a_mask_covers_outside_its_box(self):
        whole, part = (10, 10, 34, 40), (10, 10, 28, 40)  # three quarters
        book = open_book(whole)
        plan = book.plan(result(10, {1: whole}, painted=[(whole, RED)]), [box(*part), box(*whole, label="dog", score=0.5)])
        assert (plan.stop, plan.start, plan.confirmed) == ((), (), {1: 0})

    def test_a_result_without_its_picture_is_refused(self):
        book = open_book(LEFT)
        seen = result(10, {1: LEFT})
        blind = FrameResult(10, 0.0, (1,), seen.masks, seen.ious, seen.presence)
        with pytest.raises(ValueError, match="keep_video"):
            book.plan(blind, [box(*LEFT)])


class TestSettle:
    def start(self, book, frame, corners, mask=None, *, others=None, painted=COLOURS, label="cat"):
        """Find a box on a frame; return the id that its track gets (None for none), and what is to be stopped."""
        plan = book.plan(result(frame, others or {}, painted=painted), [box(*corners, label=label)])
        (start,) = plan.start
        now = result(frame, {**(others or {}), start.track: corners if mask is None else mask}, painted=painted)
        stopped = book.settle(now)
        public = dict(zip([track for track in now.object_ids if track not in stopped], book.public(now).object_ids, strict=True))
        return public.get(start.track), stopped

    def test_ids_count_from_one_in_the_order_of_the_scores(self):
        book = IdentityBook(IdentityRules(), max_objects=8)
        plan = book.plan(result(), [box(*LEFT, score=0.5), box(*RIGHT)])
        now = result(0, {start.track: start.box_xyxy_px.astype(int).tolist() for start in plan.start}, painted=COLOURS)
        book.settle(now)
        assert [known.appearance.look.argmax() for known in book.objects.values()] == [
            colour_histogram(np.array([[colour]], np.uint8)).argmax() for colour in (GREEN, RED)
        ]

    @pytest.mark.parametrize("computed", [True, False])
    def test_one_that_comes_back_gets_its_old_id_and_its_old_track_ends(self, computed):
        book = open_book(LEFT, RIGHT, max_lost=5 if computed is False else 50)
        assert book.observe(result(10, {1: NOWHERE, 2: RIGHT})) == (() if computed else (1,))
        others = {1: NOWHERE, 2: RIGHT} if computed else {2: RIGHT}
        painted = [(MIDDLE, RED), (RIGHT, GREEN)]
        assert self.start(book, 20, MIDDLE, others=others, painted=painted) == (1, (1,) if computed else ())
        assert book.objects[1].tracks == [1, 3]

    def test_one_of_another_colour_or_another_label_is_new(self):
        for painted, label, expected in (
            ([(MIDDLE, BLUE)], "cat", 2),
            ([(MIDDLE, RED)], "dog", 2),
            ([(MIDDLE, RED)], "cat", 1),
        ):
            book = open_book(LEFT)
            assert self.start(book, 20, MIDDLE, others={1: NOWHERE}, painted=painted, label=label)[0] == expected

    def test_who_is_in_the_frame_cannot_come_back(self):
        book = open_book(LEFT)
        assert self.start(book, 20, RIGHT, others={1: LEFT}, painted=[(LEFT, RED), (RIGHT, RED)])[0] == 2

    def test_two_that_come_back_at_once_are_told_apart(self):
        book = open_book(LEFT, RIGHT)
        nobody = {1: NOWHERE, 2: NOWHERE}
        plan = book.plan(result(20, nobody), [box(*MIDDLE), box(*LEFT, score=0.5)])
        now = result(20, {**nobody, plan.start[0].track: MIDDLE, plan.start[1].track: LEFT}, painted=[(MIDDLE, RED), (LEFT, GREEN)])
        assert book.settle(now) == (1, 2)
        assert book.public(now).object_ids == (1, 2)

    @pytest.mark.parametrize(
        ("mask", "why"),
        [
            (NOWHERE, "empty"),
            (shape((0, 0, 100, 60)), "everything instead of what is in the box"),
            (shape((40, 10, 42, 12)), "a corner of the box"),
            (shape(RIGHT), "another place"),
        ],
    )
    def test_a_mask_that_does_not_fit_its_box_is_no_object(self, mask, why):
        book = open_book(LEFT)
        got, stopped = self.start(book, 10, MIDDLE, mask, others={1: LEFT})
        assert got is None, why
        assert stopped == (2,)
        assert list(book.objects) == [1]
        assert self.start(book, 20, MIDDLE, others={1: LEFT})[0] == 2  # no id was lost

    def test_a_second_track_of_an_object_is_dropped_whatever_its_label(self):
        book = open_book(LEFT)
        near = (11, 10, 31, 40)  # too far from the first one's mask to be seen as its box
        assert self.start(book, 10, near, (6, 10, 26, 40), others={1: LEFT}, label="dog") == (None, (2,))

    def test_a_part_is_dropped_where_the_label_agrees(self):
        head = (10, 10, 20, 18)
        for label, expected in (("cat", None), ("head", 2)):
            book = open_book(LEFT)
            assert self.start(book, 10, head, others={1: LEFT}, label=label)[0] == expected

    def test_what_a_neighbour_s_mask_covers_outside_its_box_may_be_a_new_object(self):
        book = open_book((10, 10, 50, 50))
        small, spread = (52, 20, 60, 30), shape((10, 10, 50, 50), (52, 20, 60, 30))
        plan = book.plan(result(10, {1: spread}), [box(10, 10, 50, 50), box(*small)])
        assert plan.confirmed == {1: 0}
        now = result(10, {1: spread, plan.start[0].track: small})
        assert book.settle(now) == ()
        assert book.public(now).object_ids == (1, 2)

    def test_two_boxes_of_one_object_that_differ_give_one_object(self):
        book = IdentityBook(IdentityRules(), max_objects=8)
        plan = book.plan(result(), [box(*LEFT), box(5, 10, 25, 29, score=0.5)])
        assert len(plan.start) == 2
        assert book.settle(result(0, {1: LEFT, 2: (5, 10, 25, 31)}, painted=COLOURS)) == (2,)
        assert list(book.objects) == [1]


class TestObserve:
    def test_a_track_is_stopped_after_so_many_unseen_frames_and_not_before(self):
        book = open_book(LEFT, RIGHT, max_lost=4)
        for frame in (1, 2):
            assert book.observe(result(frame, {1: LEFT, 2: RIGHT})) == ()
        for frame in (3, 4, 5):
            assert book.observe(result(frame, {1: LEFT, 2: NOWHERE})) == ()
        gone = result(6, {1: LEFT, 2: NOWHERE})
        assert book.observe(gone) == (2,)
        assert book.public(gone).object_ids == (1,)
        assert book.observe(gone) == ()

    def test_one_frame_in_sight_counts_anew(self):
        book = open_book(LEFT, max_lost=4)
        for frame in range(1, 20):
            assert book.observe(result(frame, {1: LEFT if frame % 4 == 0 else NOWHERE})) == ()

    def test_a_mask_that_the_model_does_not_believe_is_not_seen(self):
        book = open_book(LEFT, max_lost=1)
        seen = result(1, {1: LEFT})
        seen.presence[:] = -1
        assert book.observe(seen) == (1,)

    def test_public_results_keep_their_order_and_copy_nothing_needlessly(self):
        book = open_book(LEFT, RIGHT)
        seen = result(3, {2: RIGHT, 1: LEFT})
        public = book.public(seen)
        assert public.object_ids == (2, 1)
        assert public.masks is seen.masks
        whole = replace(result(3, {7: LEFT, 2: RIGHT}), logits=np.zeros((2, 1, 4, 4), np.float32), chosen=np.array([3, 1], np.int32))
        part = book.public(whole)
        assert part.object_ids == (2,)
        assert (part.logits.shape[0], part.chosen.tolist()) == (1, [1])
        np.testing.assert_array_equal(part.masks, [shape(RIGHT)])


@pytest.mark.parametrize("seed", range(25))
def test_the_books_add_up_whatever_happens(seed):
    """Random boxes, masks that appear, vanish and jump: ids and numbers are never given twice, and every box is accounted for once."""
    rng = np.random.default_rng(seed)
    book = IdentityBook(IdentityRules(max_lost=int(rng.integers(1, 25))), max_objects=int(rng.integers(1, 6)))
    live, started, owner = {}, set(), {}
    for frame in range(0, 200, 10):
        live = {track: _random_mask(rng) if rng.random() < 0.5 else mask for track, mask in live.items()}
        found = [
            box(*_random_box(rng), label=str(rng.choice(["cat", "dog"])), score=float(rng.random())) for _ in range(rng.integers(0, 7))
        ]
        painted = [(_random_box(rng), colour) for colour in (RED, GREEN, BLUE, RED)]
        plan = book.plan(result(frame, live, painted=painted), found)
        again = {start.track for start in plan.start}
        assert again.isdisjoint(started)
        started |= again
        started_boxes = [next(i for i, one in enumerate(found) if one.box_xyxy_px is start.box_xyxy_px) for start in plan.start]
        told = [*plan.confirmed.values(), *started_boxes, *plan.duplicates, *plan.left_out]
        assert sorted(told) == list(range(len(found)))
        for track in plan.stop:
            del live[track]
        live |= {start.track: shape(start.box_xyxy_px.astype(int)) if rng.random() < 0.8 else _random_mask(rng) for start in plan.start}
        assert len(live) <= book.max_objects
        now = result(frame, live, painted=painted)
        for track in (*book.settle(now), *book.observe(now)):
            del live[track]
        public = book.public(now)
        assert len(public.object_ids) == len(live)
        for track, object_id in zip([track for track in now.object_ids if track in live], public.object_ids, strict=True):
            assert owner.setdefault(track, object_id) == object_id
    assert sorted(book.objects) == list(range(1, len(book.objects) + 1))
    assert {track: known.object_id for known in book.objects.values() for track in known.tracks}.items() >= owner.items()


def _random_box(rng):
    x0, y0 = (int(rng.integers(0, side - 8)) for side in SIZE_WH)
    return (x0, y0, int(rng.integers(x0 + 5, min(x0 + 45, SIZE_WH[0]))), int(rng.integers(y0 + 5, min(y0 + 35, SIZE_WH[1]))))


def _random_mask(rng):
    return NOWHERE if rng.random() < 0.4 else shape(_random_box(rng))


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (0, 3), (3, 0), (2, 5), (5, 2)])
def test_assignment_leaves_out_what_does_not_fit(rows, columns):
    fit = np.zeros((rows, columns))
    assert assign(fit) == []
    if fit.size:
        fit[1, 1] = 0.4
        assert assign(fit) == [(1, 1)]


def test_distinct_boxes_of_nothing():
    assert distinct_boxes([], 0.7) == []
