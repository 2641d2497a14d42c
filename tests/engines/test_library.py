import pytest
import tiny_graphs as tiny
from test_backends import FULL, RTX, add_engines, machine

from trt_track.engines import library as library_module
from trt_track.engines.backends import CPU
from trt_track.engines.library import (
    CACHE_VARIABLE,
    OFFICIAL,
    best_bundle,
    bundle_folder,
    detector_folder,
    find_bundle,
    library_bundles,
    library_detectors,
)
from trt_track.errors import BundleError
from trt_track.models import PICO_BUNDLE


@pytest.fixture(autouse=True)
def library(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    return tmp_path / "bundles"


def make(name, size, precision):
    folder = bundle_folder(name, size, precision)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    return folder


def build(name, size, precision, flavour=RTX, version="1.7"):
    """A bundle with engines for the GPU that `machine` makes up."""
    folder = bundle_folder(name, size, precision)
    add_engines(tiny.write_bundle(folder, tiny.FRAME), flavour, version)
    return folder


def test_detectors_are_no_trackers_and_the_better_ones_come_first(library):
    make("small", 128, "fp32")
    for name, frame_hw, precision in (
        ("b", (544, 960), "fp32"),
        ("b", (800, 1333), "fp16"),
        ("b", (800, 1333), "fp32"),
        ("a-1", (64, 64), "fp16"),
    ):
        folder = detector_folder(name, frame_hw, precision)
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
    (library / "unfinished-64x64-fp32").mkdir()
    found = [(one.model, one.frame_hw, one.precision) for one in library_detectors()]
    assert found == [("a-1", (64, 64), "fp16"), ("b", (800, 1333), "fp32"), ("b", (544, 960), "fp32"), ("b", (800, 1333), "fp16")]
    assert [bundle.model for bundle in library_bundles()] == ["small", "pico"]


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


class TestEngines:
    @pytest.fixture(autouse=True)
    def bundles(self):
        make("m", 1024, "fp32")
        build("m", 512, "fp16")

    @pytest.mark.parametrize(
        ("asked", "found"),
        [
            ({}, ("m", 512, "fp16")),
            ({"backend": RTX}, ("m", 512, "fp16")),
            ({"backend": CPU}, ("m", 1024, "fp32")),
            ({"backend": FULL}, ("m", 1024, "fp32")),
            ({"precision": "fp32"}, ("m", 1024, "fp32")),
            ({"image_size": 1024}, ("m", 1024, "fp32")),
        ],
    )
    def test_engines_that_can_be_used_come_first(self, asked, found):
        assert find_bundle("m", machine=machine(), **asked) == bundle_folder(*found)

    @pytest.mark.parametrize("found", [machine(gpu=None), machine(tensorrt_rtx="gone")])
    def test_engines_that_cannot_be_used_change_nothing(self, found):
        assert find_bundle("m", machine=found) == bundle_folder("m", 1024, "fp32")

    def test_engines_of_another_version_change_nothing(self):
        build("n", 1024, "fp16", version="1.6")
        make("n", 512, "fp32")
        make("n", 1024, "fp32")
        assert find_bundle("n", machine=machine()) == bundle_folder("n", 1024, "fp32")

    def test_a_damaged_bundle_has_no_engines(self):
        damaged = build("n", 1024, "fp16")
        (damaged / "manifest.json").write_text("{}")
        make("n", 256, "fp32")
        assert find_bundle("n", machine=machine(), precision=None) == damaged  # by its size alone
        make("n", 1024, "fp32")
        assert find_bundle("n", machine=machine()) == bundle_folder("n", 1024, "fp32")

    def test_the_machine_is_looked_at_only_for_engines_and_once(self, monkeypatch):
        looks = []
        monkeypatch.setattr(library_module, "inspect_machine", lambda: looks.append(1) or machine())
        build("m", 256, "fp16")
        find_bundle("m")
        assert looks == [1]
        find_bundle("m", precision="fp32")
        assert looks == [1]


class TestEmbedded:
    def test_it_is_found_by_its_name(self):
        assert find_bundle("pico") == find_bundle("pico", image_size=256, precision="fp32") == PICO_BUNDLE

    def test_one_of_the_library_comes_first(self):
        assert find_bundle("pico") == PICO_BUNDLE
        folder = make("pico", 256, "fp32")
        assert find_bundle("pico") == folder
        assert find_bundle("pico", machine=machine(), precision="fp32") == folder

    @pytest.mark.parametrize("asked", [{"image_size": 512}, {"precision": "fp16"}])
    def test_other_sizes_and_precisions_are_to_be_exported(self, asked):
        with pytest.raises(BundleError, match="trt-track export pico makes others"):
            find_bundle("pico", **asked)

    def test_it_is_the_last_of_all_bundles(self):
        make("zebra", 512, "fp32")
        make("a-b-c", 512, "fp16")
        found = [(bundle.model, bundle.image_size, bundle.precision) for bundle in library_bundles()]
        assert found == [("a-b-c", 512, "fp16"), ("zebra", 512, "fp32"), ("pico", 256, "fp32")]


class TestBest:
    def test_an_empty_library_leaves_the_embedded_model(self):
        assert best_bundle().folder == PICO_BUNDLE

    def test_models_of_others_are_never_chosen(self):
        make("mine", 1024, "fp32")
        make("sam2.1-hiera-huge", 1024, "fp32")
        assert best_bundle().folder == PICO_BUNDLE

    @pytest.mark.parametrize("count", range(1, len(OFFICIAL)))
    def test_official_models_in_their_order(self, count):
        for name in OFFICIAL[-count:]:
            make(name, 256, "fp32")
        assert best_bundle(machine=machine(gpu=None)).model == OFFICIAL[-count]

    def test_the_order_is_by_size_then_by_version(self):
        assert OFFICIAL[:3] == ("sam2.1-hiera-large", "sam2-hiera-large", "sam2.1-hiera-base-plus")
        assert OFFICIAL[-1] == "sam2-hiera-tiny"

    def test_the_better_model_counts_more_than_its_size_in_pixels(self):
        make("sam2.1-hiera-tiny", 1024, "fp32")
        make("sam2.1-hiera-small", 256, "fp32")
        make("sam2.1-hiera-small", 512, "fp32")
        assert best_bundle().folder == bundle_folder("sam2.1-hiera-small", 512, "fp32")

    def test_fp16_without_engines_is_not_chosen(self):
        make("sam2.1-hiera-large", 1024, "fp16")
        assert best_bundle(machine=machine()).folder == PICO_BUNDLE
        make("sam2-hiera-tiny", 1024, "fp32")
        assert best_bundle(machine=machine()).model == "sam2-hiera-tiny"

    def test_engines_that_can_be_used_count_most(self):
        make("sam2.1-hiera-large", 1024, "fp32")
        tiny_fp16 = build("sam2.1-hiera-tiny", 1024, "fp16")
        assert best_bundle(machine=machine()).folder == tiny_fp16
        for other in ({"machine": machine(gpu=None)}, {"machine": machine(), "backend": CPU}):
            assert best_bundle(**other).model == "sam2.1-hiera-large"

    def test_engines_of_the_embedded_model_do_not_outdo_an_official_one(self):
        build("pico", 256, "fp16")
        assert best_bundle(machine=machine()).folder == bundle_folder("pico", 256, "fp16")
        make("sam2-hiera-tiny", 1024, "fp32")
        assert best_bundle(machine=machine()).model == "sam2-hiera-tiny"

    def test_an_installation_without_the_embedded_model_asks_for_one(self, monkeypatch, tmp_path):
        monkeypatch.setattr(library_module, "PICO_BUNDLE", tmp_path / "none")
        with pytest.raises(BundleError, match="give --bundle FOLDER or --model NAME"):
            best_bundle()
