import pytest

from trt_track.engines.library import CACHE_VARIABLE, bundle_folder, find_bundle
from trt_track.errors import BundleError


@pytest.fixture(autouse=True)
def library(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    return tmp_path / "bundles"


def make(name, size, precision):
    folder = bundle_folder(name, size, precision)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    return folder


def test_a_folder_is_taken_as_it_is(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    assert find_bundle(folder) == folder


@pytest.mark.parametrize(
    ("there", "asked", "found"),
    [
        ([("m", 512, "fp32"), ("m", 1024, "fp32"), ("m", 1536, "fp32")], {}, ("m", 1024, "fp32")),
        ([("m", 512, "fp32"), ("m", 256, "fp32")], {}, ("m", 512, "fp32")),
        ([("m", 512, "fp32"), ("m", 512, "fp16")], {}, ("m", 512, "fp32")),
        ([("m", 512, "fp32"), ("m", 512, "fp16")], {"precision": "fp16"}, ("m", 512, "fp16")),
        ([("m", 512, "fp32"), ("m", 256, "fp32")], {"image_size": 256}, ("m", 256, "fp32")),
        ([("m-large", 512, "fp32"), ("m", 256, "fp32")], {}, ("m", 256, "fp32")),
    ],
)
def test_the_best_fitting_bundle_is_found(there, asked, found):
    for bundle in there:
        make(*bundle)
    assert find_bundle("m", **asked) == bundle_folder(*found)


def test_nothing_found_says_how_to_make_one(library):
    make("m", 512, "fp32")
    with pytest.raises(BundleError, match="trt-track export"):
        find_bundle("m", image_size=1024)
    (library / "m-1024-fp32").mkdir()  # without a manifest it is no bundle
    with pytest.raises(BundleError, match="no bundle of 'm'"):
        find_bundle("m", image_size=1024)
