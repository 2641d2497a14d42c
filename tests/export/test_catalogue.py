"""The catalogue: complete, consistent, and helpful about misspelt names."""

from pathlib import Path

import pytest

from trt_track.errors import ModelError
from trt_track.export.catalogue import CATALOGUE, find_model


def test_all_official_models_are_there():
    assert set(CATALOGUE) == {f"{family}-hiera-{size}" for family in ("sam2", "sam2.1") for size in ("tiny", "small", "base-plus", "large")}


@pytest.mark.parametrize("model", CATALOGUE.values(), ids=str)
def test_entries_are_whole(model):
    assert find_model(model.name) is model
    assert model.sha256 is None or (len(model.sha256) == 64 and set(model.sha256) <= set("0123456789abcdef"))
    assert model.file_name == model.name.replace("-", "_") + ".pt"
    assert model.url.startswith("https://dl.fbaipublicfiles.com/segment_anything_2/")
    # float32 weights and PyTorch's own bookkeeping
    assert model.size_bytes is None or 0 < model.size_bytes - 4 * model.parameters < 1e6
    assert model.licence == "Apache-2.0"


def test_hashes_and_urls_differ():
    assert len({model.sha256 for model in CATALOGUE.values()}) == len(CATALOGUE)
    assert len({model.url for model in CATALOGUE.values()}) == len(CATALOGUE)


def test_configurations_exist_in_the_package():
    import sam2

    for model in CATALOGUE.values():
        assert (Path(sam2.__file__).parent / model.config).is_file()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("sam2.1_hiera_tiny", "did you mean sam2.1-hiera-tiny"),
        ("SAM2.1-hiera-Large", "did you mean sam2.1-hiera-large"),
        ("sam2.1-hiera-base", "did you mean sam2.1-hiera-base-plus"),
        ("resnet50", "the models are sam2.1-hiera-tiny, "),
        ("", "the models are"),
    ],
)
def test_unknown_names_get_a_suggestion(name, says):
    with pytest.raises(ModelError, match=says):
        find_model(name)
