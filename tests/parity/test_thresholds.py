"""Limits: those that are shipped, which of them a graph or a recipe gets, and a user's file over them."""

from itertools import pairwise

import pytest

from trt_track.errors import ModelError
from trt_track.parity.thresholds import Thresholds, least_exact
from trt_track.recipe import Recipe
from trt_track.specs import GRAPHS, PRECISIONS

SHIPPED = Thresholds.read()
EXACT, HALF = SHIPPED.traced("float32"), SHIPPED.traced("float16")


@pytest.fixture
def changed(tmp_path):
    def read(text):
        path = tmp_path / "own.toml"
        path.write_text(text)
        return Thresholds.read(path)

    return read


@pytest.mark.parametrize(
    ("dtypes", "least"),
    [((), "float32"), (("float32", "float16"), "float16"), (("int8", "bfloat16"), "int8"), (("bfloat16", "float16"), "bfloat16")],
)
def test_least_exact_dtype(dtypes, least):
    assert least_exact(dtypes) == least


@pytest.mark.parametrize("recipe", PRECISIONS)
def test_every_shipped_recipe_is_judged_by_what_it_computes_in(recipe):
    """So that the report does not fail what is shipped for being what it is."""
    dtypes = {graph: Recipe.read(recipe).of(graph).told for graph in GRAPHS}
    assert SHIPPED.of_graphs(dtypes) == {graph: SHIPPED.traced(dtype) for graph, dtype in dtypes.items()}
    assert SHIPPED.track_table(recipe, dtypes.values()) == recipe


@pytest.mark.parametrize(
    ("graph", "dtype", "limits"),
    [
        ("mask_decoder", "float16", EXACT),
        ("memory_encoder", "float16", EXACT),
        ("mask_decoder", "int8", EXACT),
        ("mask_upscale", "bfloat16", EXACT),
        ("memory_attention", "int8", SHIPPED.traced("careful")),
        ("memory_attention", "float16", HALF),
        ("memory_attention", "float32", EXACT),
        ("image_encoder", "int8", SHIPPED.traced("int8")),
    ],
)
def test_a_graph_that_must_be_exact_is_held_to_it_whatever_its_recipe_says(graph, dtype, limits):
    assert SHIPPED.wanted(graph, dtype) == limits


def test_limits_grow_with_what_is_lost():
    rows = [SHIPPED.traced(dtype) for dtype in ("float32", "float16", "bfloat16")]
    assert all(a.memory < b.memory and a.mask < b.mask and a.other < b.other for a, b in pairwise(rows))


@pytest.mark.parametrize(
    ("precision", "dtypes", "table"),
    [("fp16", ["float32"], "fp16"), ("mine", ["float32", "float16"], "fp16"), ("mine", ["int8", "float32"], "int8"), ("mine", [], "fp32")],
)
def test_a_recipe_without_a_table_has_that_of_its_least_exact_dtype(precision, dtypes, table):
    assert SHIPPED.track_table(precision, dtypes) == table
    assert SHIPPED.track(precision, dtypes) == SHIPPED.track(table, ())


def test_only_named_keys_change(changed):
    own = changed("[graph.float16]\nother = 0.5\n[track.int8]\nmean_iou = 0.9\n[detector.float32]\nwords = 3\n")
    assert (own.traced("float16").other, own.traced("float16").memory) == (0.5, HALF.memory)
    assert own.traced("float32") == EXACT
    before, after = SHIPPED.track("int8", ()), own.track("int8", ())
    assert (after.mean_iou, after.least_iou, after.slope) == (0.9, before.least_iou, before.slope)
    assert own.track("mine", ["int8"]) == after
    assert own.detector(["float32"]).words == 3
    assert Thresholds.read() == SHIPPED


def test_a_table_of_ones_own_recipe_starts_from_its_least_exact_dtype(changed):
    own = changed("[track.mine]\nleast_iou = 0.5\n")
    assert own.track_table("mine", ["int8"]) == "mine"
    assert own.track("mine", ["int8"]).least_iou == 0.5
    assert own.track("mine", ["int8"]).mean_iou == SHIPPED.track("int8", ()).mean_iou
    assert own.track("mine", ["float16"]).mean_iou == SHIPPED.track("fp16", ()).mean_iou


def test_limits_that_are_off_unless_they_are_named(changed):
    shipped = SHIPPED.track("int8", ())
    assert (shipped.mean_f, shipped.choice_flips, shipped.presence_flips) == (None, None, None)
    own = changed("[track.int8]\nmean_f = 0.9\nchoice_flips = 20\n[track.mine]\npresence_flips = 2.5\n")
    found = own.track("mine", ["int8"])
    assert (found.mean_f, found.choice_flips, found.presence_flips) == (0.9, 20, 2.5)
    assert own.track("fp16", ()) == SHIPPED.track("fp16", ())
    assert found.of_drift.endswith(
        "boundary F 0.9, 2.5 presence flips per 1,000 object-frames, 20 choice flips per 1,000 object-frames; "
        "not judged where the reference's mask has under 100 pixels"
    )


@pytest.mark.parametrize(
    ("dtypes", "wrong"),
    [
        ({"image_encoder": "int8", "memory_attention": "float16", "mask_decoder": "float32"}, {}),
        ({"mask_decoder": "float16", "memory_encoder": "float32"}, {"mask_decoder": ["float32"]}),
        ({"memory_attention": "int8"}, {"memory_attention": ["float32", "float16", "bfloat16"]}),
    ],
)
def test_graphs_that_compute_in_less_than_they_may(dtypes, wrong):
    assert SHIPPED.less_than_allowed(dtypes) == wrong


def test_what_a_graph_may_compute_in_can_be_changed(changed):
    own = changed('[judged_as]\nmask_decoder = ["float32", "float16"]\n')
    assert own.wanted("mask_decoder", "float16") == HALF
    assert own.wanted("mask_decoder", "int8") == HALF
    assert own.wanted("memory_encoder", "float16") == EXACT
    assert own.less_than_allowed({"mask_decoder": "float16", "memory_encoder": "float16"}) == {"memory_encoder": ["float32"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tracks.fp16]\nslope = 1\n", "tracks is unknown: choose from graph, judged_as, track, detector"),
        ("track = 3\n", "track must be a table, got 3"),
        ("[track]\nfp16 = 3\n", "track.fp16 must be a table, got 3"),
        (
            "[track.fp16]\nmeen_iou = 0.9\n",
            "track.fp16.meen_iou is unknown: choose from logits, least_iou, filled_iou, mean_iou, slope, slope_frames",
        ),
        ('[track.fp16]\nmean_iou = "high"\n', "track.fp16.mean_iou must be a number, got 'high'"),
        ("[track.fp16]\nmean_iou = true\n", "track.fp16.mean_iou must be a number, got True"),
        ("[track.fp16]\nmean_iou = nan\n", "track.fp16.mean_iou must be a number, got nan"),
        ("[track.fp16]\nmean_iou = 99.5\n", "track.fp16.mean_iou is an IoU, 0 to 1, got 99.5"),
        ("[track.fp16]\nmean_f = 90\n", "track.fp16.mean_f is an F, 0 to 1, got 90"),
        ("[track.fp16]\nchoice_flips = -1\n", "track.fp16.choice_flips must be 0 or more, got -1"),
        ("[graph.int8]\nmean_f = 0.9\n", "graph.int8.mean_f is unknown: choose from memory, mask, other"),
        ("[track.fp16]\nsmall_pixels = 1.5\n", "track.fp16.small_pixels must be a whole number, got 1.5"),
        ("[graph.fp16]\nother = 1\n", "graph.fp16 is unknown: choose from float32, float16, bfloat16, int8"),
        ("[graph.float16]\nother = -1\n", "graph.float16.other must be 0 or more, got -1"),
        ('[judged_as]\nmask_decodr = ["float32"]\n', "judged_as.mask_decodr is unknown: choose from image_encoder, "),
        (
            '[judged_as]\nmask_decoder = "float32"\n',
            "judged_as.mask_decoder must be a list of float32, float16, bfloat16, int8, careful, got 'float32'",
        ),
        ("[judged_as]\nmask_decoder = []\n", "judged_as.mask_decoder must be a list of "),
        ("[track.fp16\n", "are no TOML: "),
    ],
)
def test_a_mistake_is_named(changed, text, message):
    with pytest.raises(ModelError, match=r"^thresholds .*own\.toml") as refused:
        changed(text)
    assert message in str(refused.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(ModelError, match=r"thresholds .*none.toml cannot be read: No such file"):
        Thresholds.read(tmp_path / "none.toml")
