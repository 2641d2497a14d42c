"""Recipes: the shipped ones say what the documentation says, and a user's file is read or refused with the reason."""

import pytest

from trt_track.errors import ModelError
from trt_track.recipe import CarefulLayers, NetworkPrecision, Recipe, recipe_rank
from trt_track.specs import PRECISIONS

OWN = """
name = "mine"
about = "less"
[networks]
image_encoder = { dtype = "float16", quantize = ["MatMul"] }
memory_attention = { dtype = "bfloat16", stream = "float32" }
[[exceptions]]
network = "image_encoder"
layers = ["neck.*"]
dtype = "float32"
reason = "edges"
"""


@pytest.mark.parametrize("name", PRECISIONS)
def test_what_every_shipped_recipe_keeps(name):
    recipe = Recipe.read(name)
    assert recipe.name == name
    assert recipe.about
    assert recipe.of("mask_decoder") == recipe.of("memory_encoder") == NetworkPrecision("float32")
    assert not recipe.of("memory_attention").quantize
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_what_the_shipped_recipes_are():
    read = {name: Recipe.read(name) for name in PRECISIONS}
    assert [one.of("image_encoder").told for one in read.values()] == ["float32", "float16", "bfloat16", "int8"]
    assert [one.of("memory_attention").told for one in read.values()] == ["float32", "float16", "bfloat16", "float16"]
    assert [one.features for one in read.values()] == ["float32", "float16", "float32", "float16"]
    assert [one.memory for one in read.values()] == ["float32", "float16", "bfloat16", "float16"]
    assert [one.of("memory_attention").stream for one in read.values()] == ["float32", "float16", "float32", "float16"]


def test_a_file_is_read(tmp_path):
    (tmp_path / "own.toml").write_text(OWN)
    recipe = Recipe.read(tmp_path / "own.toml")
    assert recipe.of("image_encoder") == NetworkPrecision("float16", ("MatMul",))
    assert recipe.of("image_encoder").told == "int8"
    assert recipe.of("mask_decoder") == NetworkPrecision()
    assert recipe.features == "float16"
    assert recipe.of("memory_attention") == NetworkPrecision("bfloat16", wide_stream=True)
    assert recipe.memory == "bfloat16"
    assert not recipe.quantizes("image_encoder", "neck.laterals.0")
    assert recipe.quantizes("image_encoder", "trunk.stages.2.0.mlp.layers.0")
    assert recipe.own_layers("image_encoder") == list(recipe.exceptions)
    assert Recipe.from_json(recipe.to_json()) == recipe
    (tmp_path / "again.toml").write_text(recipe.to_toml())
    assert Recipe.read(tmp_path / "again.toml") == recipe


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('name = "mine"', "", "name is lower-case"),
        ('name = "mine"', 'name = "Mine 2"', "name is lower-case"),
        ('name = "mine"', 'name = "int8"', "that of a shipped recipe"),
        ('dtype = "bfloat16", stream', 'dtype = "float8", stream', "dtype of memory_attention is 'float8'; choose from float32"),
        ("memory_attention = {", "text_encoder = {", "network is 'text_encoder'"),
        ('stream = "float32"', 'stream = "float16"', "stream of memory_attention is 'float16'; choose from float32, bfloat16"),
        ('quantize = ["MatMul"]', 'quantize = ["Add"]', "operator to quantise in image_encoder is 'Add'; choose from Conv, Gemm, MatMul"),
        ('dtype = "float16", quantize', 'dtype = "bfloat16", quantize', "cannot be quantised in bfloat16"),
        ('quantize = ["MatMul"]', 'quantise = ["MatMul"]', "image_encoder has 'quantise'; it takes dtype, quantize, stream"),
        ('dtype = "float32"', 'dtype = "bfloat16"', "dtype of an exception in image_encoder is 'bfloat16'; choose from float32, float16"),
        ('reason = "edges"', 'reason = " "', "must name its layers and a reason"),
        ('layers = ["neck.*"]', 'layers = "neck.*"', "layers is a list"),
        ('reason = "edges"', "", "malformed .KeyError: 'reason'."),
        ("[networks]", "[network]", "recipe has 'network'; it takes about"),
        ("[networks]", "[networks", "no TOML"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path, before, after, message):
    assert before in OWN
    (tmp_path / "own.toml").write_text(OWN.replace(before, after, 1))
    with pytest.raises(ModelError, match=message):
        Recipe.read(tmp_path / "own.toml")


def test_unknown_names_and_files(tmp_path):
    with pytest.raises(
        ModelError, match=r"precision 'int4' is unknown: choose one of fp32, fp16, bf16, int8, or name a recipe's \.toml file"
    ):
        Recipe.read("int4")
    with pytest.raises(ModelError, match=r"none.toml cannot be read: No such file"):
        Recipe.read(tmp_path / "none.toml")


def test_exceptions_cover_by_pattern_and_network():
    one = CarefulLayers("image_encoder", ("trunk.stages.0.*", "*.proj"), "float16", "why")
    assert one.covers("image_encoder", "trunk.stages.0.0.mlp")
    assert one.covers("image_encoder", "trunk.stages.3.0.attention.proj")
    assert not one.covers("image_encoder", "trunk.stages.2.5.mlp")
    assert not one.covers("memory_attention", "trunk.stages.0.0.mlp")


def test_the_most_exact_comes_first():
    assert sorted(["mine", "int8", "fp32", "bf16", "fp16"], key=recipe_rank) == [*PRECISIONS, "mine"]
