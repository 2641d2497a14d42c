"""Which model a command takes where none is named, and what it says of it."""

import pytest

from trt_track.cli.model_choice import describe_choice
from trt_track.engines.library import OFFICIAL, LibraryBundle, best_bundle, bundle_folder
from trt_track.export.catalogue import CATALOGUE
from trt_track.models import PICO_BUNDLE

PULL = "pip install 'trt-track[export]' && trt-track models pull sam2.1-hiera-tiny && trt-track export sam2.1-hiera-tiny"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRT_TRACK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def exported(cache, tiny_bundle):
    """Put a bundle that works into the library, under any name."""

    def link(name, size=128, precision="fp32"):
        place = bundle_folder(name, size, precision)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(tiny_bundle)
        return place

    return link


@pytest.fixture
def track(cli, carphone, tmp_path):
    def run(*arguments):
        common = ("--point", "1:80,60", "--max-frames", 1, "--save", "jsonl", "--overwrite", "--out", tmp_path / "out")
        return cli("run", carphone, *common, *arguments)

    return run


def pull(cache, name):
    path = cache / "checkpoints" / CATALOGUE[name].file_name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def said(done):
    """The one line about the model."""
    assert done.code == 0, done
    lines = [line for line in done.err.splitlines() if line.startswith("model: ")]
    assert len(lines) == 1, done.err
    return lines[0].removeprefix("model: ")


def test_the_names_are_those_of_the_catalogue():
    assert set(OFFICIAL) == set(CATALOGUE)


def test_an_empty_library_leaves_pico_and_says_how_to_get_more(track):
    assert said(track()) == f"pico (256 px, a small demonstration model); for a better one: {PULL}"


def test_the_best_model_of_the_library_is_taken(track, exported):
    exported("sam2-hiera-tiny")
    assert said(track()) == "sam2-hiera-tiny (128 px, fp32); for a better one: trt-track models list"
    exported("sam2.1-hiera-large")
    exported("mine")
    assert said(track()) == "sam2.1-hiera-large (128 px, fp32)"


def test_weights_in_the_cache_are_told_and_not_used(track, cache, exported):
    pull(cache, "sam2.1-hiera-small")
    advice = "weights of sam2.1-hiera-small are in the cache: trt-track export sam2.1-hiera-small makes it usable"
    assert said(track()) == f"pico (256 px, a small demonstration model); {advice}"
    pull(cache, "sam2-hiera-tiny")
    exported("sam2.1-hiera-tiny")
    assert said(track()).endswith(f"; {advice}")
    exported("sam2.1-hiera-small")
    assert said(track()) == "sam2.1-hiera-small (128 px, fp32); for a better one: trt-track models list"


def test_a_model_that_is_there_but_runs_badly_here_is_told(exported):
    exported("sam2.1-hiera-base-plus", precision="fp16")
    best = best_bundle()
    assert best.folder == PICO_BUNDLE
    assert describe_choice(best).endswith(
        "; sam2.1-hiera-base-plus is there in fp16 alone, without engines for this machine: "
        "trt-track export sam2.1-hiera-base-plus makes fp32"
    )


def test_nothing_is_said_where_the_user_chose(track, tiny_bundle):
    for chosen in (("--bundle", tiny_bundle), ("--model", "pico"), ("--model", "pico", "--size", 256, "--precision", "fp32")):
        done = track(*chosen)
        assert done.code == 0
        assert "model: " not in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", 256], "--size and --precision choose among the bundles of a model: name it with --model NAME"),
        (["--precision", "fp16"], "--size and --precision choose among the bundles of a model: name it with --model NAME"),
        (["--bundle", "x", "--size", 256], "--size and --precision choose among the bundles of a model: name it with --model NAME"),
        (["--bundle", "x", "--model", "pico"], "give either --bundle FOLDER or --model NAME, not both"),
        (["--model", "pico", "--size", 1024], "no bundle of 'pico' of that size and precision: the embedded one is fp32, "),
    ],
)
def test_options_that_contradict_each_other(track, tmp_path, arguments, message):
    assert track(*arguments).error.startswith(message)
    assert not (tmp_path / "out").exists()


def test_a_damaged_best_model_is_refused_and_not_replaced(track, exported, tmp_path):
    place = bundle_folder("sam2.1-hiera-large", 1024, "fp32")
    place.mkdir(parents=True)
    (place / "manifest.json").write_text("{")
    assert str(place) in track().error


def test_every_choice_is_one_line(cache):
    for name in (*OFFICIAL, "pico"):
        for cached in (None, *OFFICIAL):
            if cached:
                pull(cache, cached)
            text = describe_choice(LibraryBundle(name, 1024, "fp32", cache))
            assert "\n" not in text
            assert text.startswith(f"{name} (1024 px, ")


def test_the_tracker_takes_pico_by_its_name(carphone):
    from trt_track import Tracker

    with Tracker.open("pico", threads=1) as tracker, tracker.video(carphone) as video:
        assert tracker.model.image_size == 256
        video.add(object_id=1, points=[(80, 60)])
        assert [result.frame_index for result in video.propagate(max_frames=2)] == [0, 1]
