"""Drawn scenes: the same from the same seed, and a truth that fits the picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from trt_track.scenes import Material, Outline, Scene, SceneStyle, random_outline, random_scene, random_texture
from trt_track.scenes.named import PATTERNS, Name, named_scene, named_texture, phrases_of, shown_shares
from trt_track.scenes.outline import VERTICES
from trt_track.scenes.path import Path
from trt_track.scenes.scene import Camera, Thing

GREY = Image.new("RGB", (80, 60), (128, 128, 128))
PICTURES = Material([GREY, Image.new("RGB", (200, 90), (20, 60, 90))])


def circle() -> Outline:
    still = np.zeros(5)
    return Outline(np.ones(VERTICES), 1.0, still, still, still)


def straight(x: float, y: float, *, radius: float, velocity: tuple[float, float] = (0.0, 0.0)) -> Path:
    return Path((x, y), velocity, (0.0, 0.0), 0.0, 0.0, 0.0, 0.0, radius, 0.0, 0.0)


def disc(x: float, y: float, colour: tuple[int, int, int], *, tracked: bool = True, radius: float = 10.0, **move) -> Thing:
    return Thing(circle(), straight(x, y, radius=radius, **move), Image.new("RGB", (32, 32), colour), tracked)


def scene(*things: Thing, frames: int = 8) -> Scene:
    camera = Camera(straight(40, 30, radius=50), GREY, blurred=False, noise=0.0, quality=None)
    return Scene((80, 60), frames, camera, things)


@pytest.mark.parametrize("seed", range(12))
def test_a_random_scene_has_disjoint_masks_of_the_picture_s_size(seed):
    style = SceneStyle(size_wh=(96, 64), frames=3, objects=(1, 4))
    drawn = random_scene(seed, PICTURES, style)
    for frame in drawn.render():
        assert frame.frame_rgb.shape == (64, 96, 3)
        assert frame.frame_rgb.dtype == np.uint8
        assert frame.masks.shape == (drawn.object_count, 64, 96)
        assert frame.masks.sum(axis=0).max() <= 1
    assert 1 <= drawn.object_count <= 4


def test_the_same_seed_draws_the_same_clip_and_another_seed_another():
    style = SceneStyle(size_wh=(64, 64), frames=2)
    once, again, other = (list(random_scene(seed, PICTURES, style).render()) for seed in ((5, 1), (5, 1), (5, 2)))
    assert all(np.array_equal(a.frame_rgb, b.frame_rgb) and np.array_equal(a.masks, b.masks) for a, b in zip(once, again, strict=True))
    assert not np.array_equal(once[0].frame_rgb, other[0].frame_rgb)


def test_frames_do_not_depend_on_the_order_in_which_they_are_drawn():
    drawn = random_scene(3, PICTURES, SceneStyle(size_wh=(64, 64), frames=4))
    later = drawn.frame(3).frame_rgb
    assert np.array_equal(later, list(drawn.render())[3].frame_rgb)


def test_a_mask_covers_what_was_painted():
    frame = scene(disc(30, 20, (250, 10, 10))).frame(0)
    red = frame.frame_rgb[..., 0] > 200
    assert frame.masks[0].sum() == pytest.approx(np.pi * 100, rel=0.06)
    assert (frame.masks[0] & red).sum() / (frame.masks[0] | red).sum() > 0.9
    ys, xs = np.nonzero(frame.masks[0])
    assert (xs.mean() + 0.5, ys.mean() + 0.5) == pytest.approx((30, 20), abs=0.3)


def test_what_is_in_front_hides_what_is_behind_even_when_it_is_not_tracked():
    alone = scene(disc(30, 30, (250, 0, 0))).frame(0).masks[0]
    front = scene(disc(30, 30, (250, 0, 0)), disc(30, 30, (0, 250, 0), tracked=False, radius=6)).frame(0).masks
    assert front.shape[0] == 1
    assert 0 < front[0].sum() < alone.sum()
    assert not front[0][30, 30]


def test_a_hidden_object_and_one_that_left_have_an_empty_mask():
    hidden = scene(disc(30, 30, (250, 0, 0), radius=5), disc(30, 30, (0, 250, 0), radius=15)).frame(0).masks
    assert [mask.any() for mask in hidden] == [False, True]
    leaving = list(scene(disc(60, 30, (250, 0, 0), velocity=(10.0, 0.0))).render())
    assert leaving[0].masks[0].any()
    assert not leaving[-1].masks[0].any()


def test_objects_move_along_their_path():
    first, second = (frame.masks[0] for frame in list(scene(disc(20, 30, (250, 0, 0), velocity=(4.0, 0.0)), frames=2).render()))
    assert np.array_equal(np.roll(first, 4, axis=1), second)


def test_leaving_scenes_have_frames_without_the_object():
    style = SceneStyle(size_wh=(64, 64), frames=16, objects=(1, 1), clutter=0, leave=1.0)
    clips = [np.stack([frame.masks[0] for frame in random_scene(seed, PICTURES, style).render()]) for seed in range(20)]
    gone = [(~clip.any(axis=(1, 2))).any() for clip in clips if clip[0].any()]
    assert np.mean(gone) > 0.8


def test_degrading_changes_the_picture_and_not_the_truth():
    things = (disc(30, 30, (250, 0, 0)),)
    clean = Scene((80, 60), 1, Camera(straight(40, 30, radius=50), GREY, False, 0.0, None), things).frame(0)
    poor = Scene((80, 60), 1, Camera(straight(40, 30, radius=50), GREY, False, 10.0, 20), things).frame(0)
    assert np.array_equal(clean.masks, poor.masks)
    assert np.abs(clean.frame_rgb.astype(int) - poor.frame_rgb).mean() > 1


def test_things_that_are_alike_differ_in_place_and_form_alone():
    def spread(seed, alike):
        things = random_scene(seed, PICTURES, SceneStyle(objects=(4, 4), clutter=0, alike=alike)).things
        assert len({thing.path for thing in things}) == len({id(thing.outline) for thing in things}) == 4
        colours = np.array([np.asarray(thing.texture, float).mean(axis=(0, 1)) for thing in things])
        return np.ptp(colours, axis=0).max()

    alike, different = ([spread(seed, share) for seed in range(5)] for share in (1.0, 0.0))
    assert max(alike) < min(different)


def test_a_scene_needs_a_picture():
    with pytest.raises(ValueError, match="at least one picture"):
        random_scene(0, Material([]))


@pytest.mark.parametrize("seed", range(20))
def test_textures_have_their_size_and_outlines_stay_near_the_unit_circle(seed):
    rng = np.random.default_rng(seed)
    texture = np.asarray(random_texture(rng, 48))
    assert texture.shape == (48, 48, 3)
    assert texture.std() > 0
    outline = random_outline(rng)
    for time in (0.0, 7.5, 100.0):
        reach = np.abs(outline.at(time)).max()
        assert 0.3 < reach < 1.6


class TestNamedThings:
    STYLE = SceneStyle(size_wh=(160, 96), frames=1, objects=(1, 5), leave=0.0)

    @pytest.mark.parametrize("seed", range(8))
    def test_every_thing_is_named_and_half_of_it_is_seen_at_least(self, seed):
        drawn, names = named_scene(seed, PICTURES, self.STYLE)
        assert drawn.object_count == len(names)
        assert shown_shares(drawn, drawn.frame(0)).min() >= 0.5

    @pytest.mark.parametrize(
        ("colour", "least", "most"),
        [("red", (150, 0, 0), (255, 90, 90)), ("white", (225,) * 3, (255,) * 3), ("black", (0,) * 3, (40,) * 3)],
    )
    def test_a_colour_is_what_it_is_called(self, colour, least, most):
        for seed in range(20):
            seen = np.asarray(named_texture(np.random.default_rng(seed), Name(colour, "plain", "circle"))).reshape(-1, 3)
            assert (seen >= least).all()
            assert (seen <= most).all()

    def test_a_pattern_has_two_colours_and_a_plain_thing_one(self):
        for pattern in PATTERNS:
            seen = np.asarray(named_texture(np.random.default_rng(1), Name("green", pattern, "star"))).reshape(-1, 3)
            colours, counts = np.unique(seen, axis=0, return_counts=True)
            assert len(colours) == (1 if pattern == "plain" else 2)
            assert counts.min() > 0.15 * len(seen)

    def test_a_name_answers_to_its_words(self):
        name = Name("red", "striped", "star")
        assert name.phrase(colour=True, pattern=False, shape=True) == "red star"
        assert name.phrase(colour=False, pattern=True, shape=False) == "striped thing"
        assert [name.is_called(phrase) for phrase in ("star", "red thing", "red striped star", "plain star", "blue star")] == [
            True,
            True,
            True,
            False,
            False,
        ]

    def test_phrases_are_drawn_from_names(self):
        rng, names = np.random.default_rng(0), (Name("red", "plain", "star"), Name("blue", "dotted", "blob"))
        for _ in range(30):
            phrases = phrases_of(rng, names, 2, 0)
            assert phrases
            assert all(any(name.is_called(phrase) for name in names) for phrase in phrases)

    def test_a_crowd_that_finds_no_place_is_refused(self):
        crowd = SceneStyle(size_wh=(64, 64), frames=1, objects=(30, 30), scale=(0.4, 0.5), leave=0.0)
        with pytest.raises(ValueError, match="hide each other"):
            named_scene(0, PICTURES, crowd)
