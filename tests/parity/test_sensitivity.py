"""Which layers cost masks in INT8: the search, and the whole command on a small model."""

import json
from dataclasses import replace

import numpy as np
import pytest

from trt_track.engines.bundle import Bundle
from trt_track.errors import ModelError
from trt_track.parity.clip_drift import ClipDrift
from trt_track.parity.sensitivity import Candidate, EncoderStudy, KeptTrack, LayerError, compare_clip, fewest_kept
from trt_track.parity.thresholds import Thresholds
from trt_track.recipe import Recipe
from trt_track.runtime.results import FrameResult

LIMITS = replace(Thresholds.read().track("int8", ()), small_pixels=2)
FULL, HALF, NONE = np.ones((5, 3), bool), np.tri(5, 3, dtype=bool), np.zeros((5, 3), bool)


def measured(ious):
    """Return a measure that looks up the mean IoU by the number of layers left out; 0.97 passes."""
    return lambda kept: Candidate(kept, ious[kept], ious[kept] - 0.1, () if ious[kept] >= 0.97 else ("too low",))


@pytest.mark.parametrize(
    ("ious", "kept"),
    [
        ([0.99, 1, 1, 1, 1, 1, 1], 0),
        ([0.5, 0.98, 1, 1, 1, 1, 1], 1),
        ([0.5, 0.6, 0.7, 0.98, 1, 1, 1], 3),
        ([0.5, 0.6, 0.7, 0.8, 0.9, 0.96, 0.98], 6),
        ([0.5, 0.6, 0.7, 0.9, 0.8, 0.8, 0.8], None),
        ([0.5], None),
    ],
)
def test_the_fewest_layers_are_found(ious, kept):
    chosen, tried = fewest_kept(len(ious) - 1, measured(ious))
    assert (None if chosen is None else chosen.kept) == kept
    assert chosen is None or chosen in tried
    assert len({one.kept for one in tried}) == len(tried) <= 4


def test_what_is_chosen_passed_even_where_masks_do_not_get_better_with_every_layer():
    chosen, tried = fewest_kept(7, measured([0.5, 0.99, 0.5, 0.5, 0.5, 0.98, 0.5, 0.98]))
    assert chosen.passed
    assert chosen in tried


def test_a_small_layer_goes_first_where_it_costs_as_much_as_a_large_one():
    small, large, worse = LayerError("a", 0.1, "embed", 0.01), LayerError("b", 0.1, "embed", 0.1), LayerError("c", 0.4, "embed", 0.1)
    assert sorted((small, large, worse), key=lambda one: -one.per_weight) == [worse, small, large]


def result(frame, masks):
    """What a tracker says of objects 1, 2, ... on a frame."""
    count = len(masks)
    ones, logits = np.ones(count, np.float32), np.full((count, 1, 2, 2), frame, np.float32)
    chosen = np.arange(count, dtype=np.int32)
    return FrameResult(frame, 0.0, tuple(range(1, count + 1)), np.stack(masks), ones, ones, logits, chosen=chosen)


def test_a_track_is_kept_as_it_was():
    kept = KeptTrack(result(frame, masks) for frame, masks in enumerate([(HALF, FULL), (NONE, HALF)]))
    for _ in range(2):  # for any number of comparisons
        for frame, masks in enumerate([(HALF, FULL), (NONE, HALF)]):
            seen = kept(frame)
            assert [seen[number].mask_hw.tolist() for number in (1, 2)] == [mask.tolist() for mask in masks]
            assert [(seen[number].present, seen[number].chosen, seen[number].logits.max()) for number in (1, 2)] == [
                (True, 0, frame),
                (True, 1, frame),
            ]


class Clip:
    """Stands in for a `Video` that finds these results."""

    damage = None

    def __init__(self, results):
        self.results, self.asked = results, 0

    def propagate(self, **_):
        for one in self.results:
            self.asked += 1
            yield one


@pytest.mark.parametrize(
    ("found", "tracked", "failures"),
    [
        ([FULL] * 6, 6, 0),
        ([FULL, FULL, HALF, FULL, FULL, FULL], 3, 2),  # the mean of what was tracked is too low as well
        ([FULL] * 5 + [NONE], 6, 2),
    ],
)
def test_a_clip_is_tracked_to_the_first_mask_that_misses(found, tracked, failures):
    clip, reference = Clip([result(frame, [mask]) for frame, mask in enumerate(found)]), KeptTrack(result(n, [FULL]) for n in range(6))
    drift = compare_clip(clip, "clip.mp4", reference, LIMITS)
    assert (clip.asked, len(drift.rows)) == (tracked, tracked)
    assert len(list(drift.all_failures())) == failures


def test_where_the_reference_has_a_small_mask_a_clip_is_tracked_on():
    clip, reference = Clip([result(n, [FULL]) for n in range(6)]), KeptTrack(result(n, [NONE if n == 2 else FULL]) for n in range(6))
    drift = compare_clip(clip, "clip.mp4", reference, LIMITS)
    assert (clip.asked, drift.passed) == (6, True)


def test_a_candidate_is_as_good_as_its_worst_object():
    wanted = KeptTrack(result(frame, [FULL, FULL]) for frame in range(2))
    drifts = [
        compare_clip(Clip([result(frame, masks) for frame in range(2)]), "clip.mp4", wanted, replace(LIMITS, least_iou=0.1))
        for masks in ((FULL, FULL), (FULL, HALF))
    ]
    share = HALF.sum() / FULL.sum()
    found = Candidate.of_clips(3, drifts)
    assert (found.kept, found.mean_iou, found.least_iou) == (3, pytest.approx(share), pytest.approx(share))
    assert found.failures == (f"clip.mp4 against exact, object 2: mean IoU {share:.4f} is under 0.97",)
    assert Candidate.of_clips(0, [ClipDrift("clip.mp4", "exact", [], [])]).mean_iou is None


def test_a_recipe_says_what_was_measured(tiny_bundle, tmp_path):
    study = EncoderStudy(Bundle.open(tiny_bundle), tmp_path)
    assert len(study.layers) > 20
    recipe = study.recipe("mine", [LayerError("neck.laterals.0", 0.0312, "high_res_0", 0.01)])
    assert recipe.exceptions[0].reason == "quantised alone, it changes high_res_0 by 3.12% of its standard deviation"
    (tmp_path / "mine.toml").write_text(recipe.to_toml())
    assert Recipe.read(tmp_path / "mine.toml") == recipe


def test_the_command(cli, tiny_bundle, small_config, carphone, tmp_path):
    """Every layer is tried alone, the recipe is one that an export takes and a report lets pass; what is quantised already is refused."""
    recipe, report, out = tmp_path / "found.toml", tmp_path / "found.json", tmp_path / "bundle"
    calibrated = ("--calibrate", carphone, "--calibration-frames", 2, "--calibration", "minmax")
    clip = ("--clip", carphone, "--frames", 4, "--box", "1:40,30,120,110")
    done = cli("sensitivity", tiny_bundle, *clip, "--iou", 0.995, *calibrated, "--name", "found", "--out", recipe, "--json", report)
    assert done.code == 0, done.err
    content = json.loads(report.read_text())
    layers = [one["layer"] for one in content["layers"]]
    assert len(set(layers)) == len(layers) > 20
    assert all(one["error"] > 0 for one in content["layers"])
    assert sum(one["weights"] for one in content["layers"]) == pytest.approx(1)
    table = [line.split() for line in done.out.splitlines()[1 : len(layers) + 1]]
    order = sorted(content["layers"], key=lambda one: -(one["error"] ** 2) / one["weights"])
    assert [row[0] for row in table] == [one["layer"] for one in order]
    passed = [one for one in content["tried"] if not one["failures"]]
    kept = min(one["kept"] for one in passed)
    assert 0 < kept < len(layers)
    found = Recipe.read(recipe)
    assert [one.layers for one in found.exceptions] == [(one["layer"],) for one in order[:kept]]
    made = cli("export", "small", "--config", small_config, "--random-weights", 0, "--precision", recipe, *calibrated, "--out", out)
    assert made.code == 0, made.err
    (tmp_path / "own.toml").write_text("[track.found]\nmean_iou = 0.995\n")
    judged = cli("parity", out, *clip, "--reference", tiny_bundle, "--no-upstream", "--thresholds", tmp_path / "own.toml")
    assert judged.code == 0, judged.out
    assert cli("sensitivity", out, "--clip", carphone).error == (
        f"{out} is quantised already: give the fp16 or fp32 bundle that a recipe is looked for"
    )


def test_no_recipe_is_written_that_would_not_pass(cli, tiny_bundle, carphone, tmp_path):
    """Of limits that nothing can be within."""
    own, recipe = tmp_path / "own.toml", tmp_path / "found.toml"
    own.write_text("[track.int8]\nslope = 1\nslope_frames = 2\nsmall_pixels = 0\n")
    asked = ("--clip", carphone, "--frames", 2, "--box", "1:40,30,120,110", "--iou", 0, "--least-iou", 0, "--thresholds", own)
    calibrated = ("--calibrate", carphone, "--calibration-frames", 2, "--calibration", "minmax")
    done = cli("sensitivity", tiny_bundle, *asked, *calibrated, "--reference", tiny_bundle, "--out", recipe)
    assert done.code == 1, done.err
    assert done.out.splitlines()[-1] == "the limits were not reached with all layers left out but one: no recipe was written"
    assert "IoU changes by " in done.err
    assert not recipe.exists()


def test_a_detector_and_bad_names_are_refused(cli, tiny_detector, tiny_bundle, carphone):
    assert "holds the detector small" in cli("sensitivity", tiny_detector, "--clip", carphone).error
    assert "a name is lower-case letters" in cli("sensitivity", tiny_bundle, "--clip", carphone, "--name", "My Recipe").error


def test_bfloat16_cannot_be_quantised(tiny_bundle, tmp_path):
    bundle = Bundle.open(tiny_bundle)
    bundle.manifest.description.recipe["networks"]["image_encoder"] = "bfloat16"
    with pytest.raises(ModelError, match="image_encoder cannot be quantised in bfloat16"):
        EncoderStudy(bundle, tmp_path)
