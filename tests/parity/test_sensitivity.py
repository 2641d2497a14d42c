"""Which layers cost masks in INT8: the search, and the whole command on a small model."""

import json

import numpy as np
import pytest

from trt_track.engines.bundle import Bundle
from trt_track.errors import ModelError
from trt_track.parity.sensitivity import Candidate, EncoderStudy, LayerError, compare_masks, fewest_kept
from trt_track.recipe import Recipe


def measured(ious):
    """Return a measure that looks up the mean IoU by the number of layers left out."""
    return lambda kept: Candidate(kept, ious[kept], ious[kept] - 0.1)


@pytest.mark.parametrize(
    ("ious", "kept"),
    [
        ([0.99, 1, 1, 1, 1, 1, 1], 0),
        ([0.5, 0.98, 1, 1, 1, 1, 1], 1),
        ([0.5, 0.6, 0.7, 0.98, 1, 1, 1], 3),
        ([0.5, 0.6, 0.7, 0.8, 0.9, 0.96, 0.98], 6),
        ([0.5, 0.6, 0.7, 0.9, 0.8, 0.8, 0.8], 3),  # never reached: the best of those that were tried
        ([0.5], 0),
    ],
)
def test_the_fewest_layers_are_found(ious, kept):
    chosen, tried = fewest_kept(len(ious) - 1, 0.97, measured(ious))
    assert chosen.kept == kept
    assert chosen in tried
    assert len({one.kept for one in tried}) == len(tried) <= 4


def test_what_is_chosen_was_measured_even_where_masks_do_not_get_better_with_every_layer():
    chosen, tried = fewest_kept(7, 0.97, measured([0.5, 0.99, 0.5, 0.5, 0.5, 0.98, 0.5, 0.98]))
    assert chosen.mean_iou >= 0.97
    assert chosen in tried


def test_masks_are_compared_object_by_object():
    full, half, none = np.ones((4, 4), bool), np.tri(4, dtype=bool), np.zeros((4, 4), bool)
    found = compare_masks(3, [{1: full, 2: none}, {1: half, 2: full}], [{1: full, 2: none}, {1: full, 2: full}])
    assert (found.kept, found.mean_iou, found.least_iou) == (3, pytest.approx((3 + 10 / 16) / 4), pytest.approx(10 / 16))


def test_a_recipe_says_what_was_measured(tiny_bundle, tmp_path):
    study = EncoderStudy(Bundle.open(tiny_bundle), tmp_path)
    assert len(study.layers) > 20
    recipe = study.recipe("mine", [LayerError("neck.laterals.0", 0.0312, "high_res_0", 0.01)])
    assert recipe.exceptions[0].reason == "quantised alone, it changes high_res_0 by 3.12% of its standard deviation"
    (tmp_path / "mine.toml").write_text(recipe.to_toml())
    assert Recipe.read(tmp_path / "mine.toml") == recipe


def test_the_command(cli, tiny_bundle, small_config, carphone, tmp_path):
    """Every layer is tried alone, the recipe is one that an export takes, and what is quantised already is refused."""
    recipe, report = tmp_path / "found.toml", tmp_path / "found.json"
    done = cli(
        *("sensitivity", tiny_bundle, "--clip", carphone, "--frames", 3, "--box", "1:40,30,120,110", "--iou", 1, "--name", "found"),
        *("--calibrate", carphone, "--calibration-frames", 2, "--calibration", "minmax", "--out", recipe, "--json", report),
    )
    assert done.code == 0, done.err
    content = json.loads(report.read_text())
    layers = [one["layer"] for one in content["layers"]]
    assert len(set(layers)) == len(layers) > 20
    assert all(one["error"] > 0 for one in content["layers"])
    assert sum(one["weights"] for one in content["layers"]) == pytest.approx(1)
    table = [line.split() for line in done.out.splitlines()[1 : len(layers) + 1]]
    worst = sorted(content["layers"], key=lambda one: -one["error"])
    assert [row[0] for row in table] == [one["layer"] for one in worst]
    kept = max(content["tried"], key=lambda one: one["mean_iou"])["kept"]
    found = Recipe.read(recipe)
    assert [one.layers for one in found.exceptions] == [(one["layer"],) for one in worst[:kept]]
    out = tmp_path / "bundle"
    made = cli("export", "small", "--config", small_config, "--random-weights", 0, "--precision", recipe, "--out", out)
    assert made.code == 0, made.err
    assert cli("sensitivity", out, "--clip", carphone).error == (
        f"{out} is quantised already: give the fp16 or fp32 bundle that a recipe is looked for"
    )


def test_a_detector_and_bad_names_are_refused(cli, tiny_detector, tiny_bundle, carphone):
    assert "holds the detector small" in cli("sensitivity", tiny_detector, "--clip", carphone).error
    assert "a name is lower-case letters" in cli("sensitivity", tiny_bundle, "--clip", carphone, "--name", "My Recipe").error


def test_bfloat16_cannot_be_quantised(tiny_bundle, tmp_path):
    bundle = Bundle.open(tiny_bundle)
    bundle.manifest.description.recipe["networks"]["image_encoder"] = "bfloat16"
    with pytest.raises(ModelError, match="image_encoder cannot be quantised in bfloat16"):
        EncoderStudy(bundle, tmp_path)
