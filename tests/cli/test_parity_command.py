"""`trt-track parity` of whole tracks: long clips beside an FP32 bundle and upstream, limits, reports, and recipes that must not pass."""

import json
import shutil
import subprocess
import sys
from contextlib import closing

import pytest
from command_line import run_process
from perturbed import perturb
from PIL import Image

from trt_track.cli.parity_clips import ClipOptions, read_prompts_of_clips
from trt_track.runtime.video import open_video

FP16_EVERYWHERE = """
name = "fp16_everywhere"
[networks]
image_encoder = "float16"
memory_attention = "float16"
mask_decoder = "float16"
memory_encoder = "float16"
"""


INT8_MEMORIES = """
name = "int8_memories"
[networks]
image_encoder = "float16"
memory_attention = { dtype = "float16", quantize = ["Gemm", "MatMul"] }
"""


def report_in(folder):
    return json.loads((folder / "report.json").read_text())


def lines_of(done):
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def broken(tiny_bundle, tmp_path_factory):
    """A bundle whose memories are off, as those of a recipe that does without too much are: it drifts."""
    bundle = shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("broken") / "bundle")
    perturb(bundle, "memory_encoder", 1.5)
    return bundle


def test_without_upstream_it_needs_no_pytorch(tiny_bundle, carphone, tmp_path):
    """Everything is written, and the page is of the numbers: the bundle beside itself."""
    command = ["parity", tiny_bundle, "--clip", carphone, "--frames", 20, "--reference", tiny_bundle, "--no-upstream", "--report", tmp_path]
    script = (
        "import sys\nfrom trt_track.cli import main\n"
        "try:\n    main()\nfinally:\n    print(sorted({'torch', 'sam2', 'transformers', 'matplotlib'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, *map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines_of(done)[-2:] == ["all 2 comparisons are within the limits of fp32", "[]"]
    found = report_in(tmp_path)
    assert (found["passed"], found["finished"], found["graphs"], found["tracks"]) == (True, True, [], [])
    assert [note.split(" (")[0] for note in found["notes"]] == [
        "upstream, the graphs and the cases were left out",
        "carphone_pristine.mp4 against fp32: the slope of object 1, 2 was not judged: that takes 50 frames on which the reference's mask "
        "is large enough",
    ]
    (drift,) = found["drift"]
    assert (drift["clip"], drift["against"]) == ("carphone_pristine.mp4", "fp32")
    assert [(row["frame"], row["object_id"]) for row in drift["rows"]] == [(frame, number) for frame in range(20) for number in (1, 2)]
    assert {(row["iou"], row["logits"], row["boundary_f"], row["choice_differs"]) for row in drift["rows"]} == {(1.0, 0.0, 1.0, False)}
    assert sum(row["pixels"] > 0 for row in drift["rows"]) > 20  # empty masks would prove nothing
    assert [set(prompt) for prompt in drift["prompts"]] == [{"frame", "object", "box"}, {"frame", "object", "points", "labels"}]
    assert len((tmp_path / "frames.jsonl").read_text().splitlines()) == 40
    assert (tmp_path / "report.md").read_text().startswith("## ✅ trt-track parity: all 2 comparisons are within the limits of fp32\n")
    assert "PASSED" in (tmp_path / "report.html").read_text()


def test_drift_is_caught_beside_both_references(broken, tiny_bundle, small_config, carphone, tmp_path):
    asked = ("--config", small_config, "--clip", carphone, "--frames", 16, "--reference", tiny_bundle, "--no-cases", "--report", tmp_path)
    done = run_process("parity", broken, *asked, "--box", "4:40,30,120,110")
    assert done.returncode == 1, done.stdout + done.stderr
    found = report_in(tmp_path)
    assert [(drift["against"], [one["object_id"] for one in drift["objects"]]) for drift in found["drift"]] == [
        ("fp32", [4]),
        ("upstream", [4]),
    ]
    assert not any(one["passed"] for drift in found["drift"] for one in drift["objects"])
    for drift in found["drift"]:
        assert drift["rows"][0]["iou"] > 0.99  # the first frame reads no memory
        assert drift["objects"][0]["least_iou"] == min(row["iou"] for row in drift["rows"]) < 0.99
    assert {row["case"].split()[0] for row in found["graphs"] if not row["passed"]} == {"memory_encoder"}
    assert {drift["rows"][0]["choice_differs"] for drift in found["drift"]} == {False}
    pictures = {path.name for path in (tmp_path / "worst").iterdir()}
    assert {name.split("-")[1] for name in pictures} == {"fp32", "upstream"}
    assert (tmp_path / "report.html").read_text().count("data:image/png;base64,") == len(pictures)
    assert any(line.startswith("  carphone_pristine.mp4 against fp32, object 4: ") for line in lines_of(done))


def test_limits_of_ones_own(broken, tiny_bundle, carphone, tmp_path):
    own = tmp_path / "own.toml"
    own.write_text("[track.fp32]\nmean_iou = 0.0\nleast_iou = 0.0\n")
    asked = ("parity", broken, "--clip", carphone, "--frames", 12, "--reference", tiny_bundle, "--no-upstream")
    assert run_process(*asked).returncode == 1
    done = run_process(*asked, "--thresholds", own, "--json", tmp_path / "parity.json")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "parity.json").read_text())["thresholds"]
    assert (told["file"], told["track"]) == (str(own), "fp32")
    assert told["tables"]["track"]["fp32"]["mean_iou"] == 0.0


@pytest.mark.parametrize(
    ("recipe", "caught"), [(FP16_EVERYWHERE, "mask_decoder"), (INT8_MEMORIES, "memory_attention")], ids=["FP16 everywhere", "INT8 memories"]
)
def test_a_recipe_that_goes_too_far_does_not_pass(small_config, tiny_bundle, carphone, tmp_path, recipe, caught):
    """The export is sound, each graph being as exact as its dtype can be; SAM 2 wants more of what is remembered.

    Beside upstream the report measures it; without, the manifest tells.
    """
    file, folder, model = tmp_path / "too_far.toml", tmp_path / "bundle", ("--config", small_config)
    file.write_text(recipe)
    calibrated = ("--calibrate", carphone, "--calibration-frames", 10) if "quantize" in recipe else ()
    made = run_process("export", "small", *model, "--random-weights", 0, "--precision", file, "--out", folder, *calibrated)
    assert made.returncode == 0, made.stderr
    report = tmp_path / "report"
    done = run_process("parity", folder, *model, "--report", report)
    assert done.returncode == 1, done.stdout + done.stderr
    told = report_in(report)
    assert (told["finished"], told["passed"], told["unmeasured"]) == (True, False, {})
    failed = {row["case"].split()[0] for row in told["graphs"] if not row["passed"]}
    assert caught in failed
    assert not failed & ({"image_encoder", "memory_attention", "mask_prompt", "mask_upscale"} - {caught})
    assert any(failure.startswith(f"graph {caught} ") for failure in told["failures"])
    written = [(report / name).read_text() for name in ("report.md", "report.html")]
    assert all(f"graph {caught} " in text and "comparisons failed" in text for text in written)
    tracks = ("--clip", carphone, "--frames", 12, "--reference", tiny_bundle, "--no-upstream", "--report", report)
    done = run_process("parity", folder, *tracks)
    assert done.returncode == 1, done.stdout + done.stderr
    told = report_in(report)
    assert (told["finished"], told["graphs"], caught in told["unmeasured"]) == (True, [], True)
    assert f"graph {caught} computes in " in (report / "report.md").read_text()


def test_a_clip_that_ends_early_does_not_pass(cli, tiny_bundle, carphone, tmp_path):
    """Though every mask up to there is equal."""
    clip = tmp_path / "clip"
    clip.mkdir()
    with open_video(carphone) as source:
        for frame in source.frames(size=32, stop=8, keep_video=True):
            Image.fromarray(frame.video_rgb_hwc).save(clip / f"{frame.index:05}.png")
    (clip / "00006.png").write_bytes((clip / "00006.png").read_bytes()[:200])
    done = cli("parity", tiny_bundle, "--clip", clip, "--reference", tiny_bundle, "--no-upstream", "--report", tmp_path / "report")
    assert done.code == 1, done.err
    told = report_in(tmp_path / "report")
    (drift,) = told["drift"]
    assert (told["passed"], len(drift["rows"]), all(one["passed"] for one in drift["objects"])) == (False, 12, True)
    assert told["failures"] == [f"clip against fp32: {drift['damage']}: what comes after it was not compared"]
    assert f"  {told['failures'][0]}\n" in done.out


def test_each_clip_has_its_own_prompts_or_all_have_the_same(carphone, bikes, tmp_path):
    files = []
    for name, number in (("a.json", 4), ("b.json", 7)):
        files.append(tmp_path / name)
        files[-1].write_text(json.dumps({"prompts": [{"object": number, "box": [10, 10, 50, 50]}]}))
    asked = {
        "one each": read_prompts_of_clips((None, None, None), files, clips=2),
        "one for all": read_prompts_of_clips((None, None, None), files[:1], clips=2),
        "a box beside": read_prompts_of_clips((["9:1,1,40,40"], None, None), files, clips=2),
        "none": read_prompts_of_clips((None, None, None), None, clips=2),
    }
    found = {}
    for name, prompts in asked.items():
        options = ClipOptions((carphone, bikes), 2, prompts, cases=False, only=())
        found[name] = []
        for clip in options.clips:
            with closing(options.open(clip)) as source:
                found[name].append([prompt.object_id for prompt in options.prompts_for(clip, source)])
    assert found == {"one each": [[4], [7]], "one for all": [[4], [4]], "a box beside": [[9, 4], [9, 7]], "none": [[1, 2], [1, 2]]}


class TestUpstream:
    """Graphs, cases and detectors, each in a process of its own: upstream's warnings are not ours to judge."""

    def test_sound_bundle(self, tiny_bundle, small_config, carphone, tmp_path):
        report = tmp_path / "parity.json"
        done = run_process(
            *("parity", tiny_bundle, "--config", small_config, "--clip", carphone, "--frames", 12),
            *("--case", "box and click", "--case", "removed", "--json", report),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.endswith("equal to upstream\n")
        content = json.loads(report.read_text())
        assert {row["case"].split()[0] for row in content["graphs"]} == set(content["bundle"]["dtypes"])
        assert [track["case"] for track in content["tracks"]] == ["box and click", "object removed on frame 6"]
        assert {row["frame"] for row in content["tracks"][0]["rows"]} == set(range(12))
        assert all(row["passed"] for row in content["graphs"] + content["tracks"][0]["rows"])

    # A memory is compared with the tolerance of its 8 bits, so that a small error in it shows in whole tracks only.
    @pytest.mark.parametrize(("graph", "factor"), [("memory_encoder", 1.5), ("memory_attention", 1.02)])
    def test_wrong_graph_is_caught(self, tiny_bundle, small_config, tmp_path, graph, factor):
        bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
        perturb(bundle, graph, factor)
        report = tmp_path / "parity.json"
        done = run_process("parity", bundle, "--config", small_config, "--json", report)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "comparisons failed" in done.stdout.splitlines()[-1]
        failed = {row["case"].split()[0] for row in json.loads(report.read_text())["graphs"] if not row["passed"]}
        assert failed == {graph}

    def test_sound_detector(self, tiny_detector, detector_folder, carphone, tmp_path):
        report = tmp_path / "parity.json"
        asked = ("parity", tiny_detector, "--weights", detector_folder, "--text", "red car. dog.")
        done = run_process(*asked, "--clip", carphone, "--frames", 3, "--json", report)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.endswith("equal to upstream\n")
        content = json.loads(report.read_text())
        assert [row["frame"] for row in content["frames"]] == [0, 60, 119]
        assert {row["text"] for row in content["frames"]} == {"red car. dog."}
        assert all(row["passed"] and row["logits"] < 2e-3 for row in content["frames"])
        assert [line.split()[0] for line in done.stdout.splitlines()[1:4]] == ["0", "60", "119"]

    def test_wrong_detector_is_caught(self, tiny_detector, detector_folder, tmp_path):
        bundle = shutil.copytree(tiny_detector, tmp_path / "bundle")
        perturb(bundle, "detector", 1.05)
        done = run_process("parity", bundle, "--weights", detector_folder)
        assert done.returncode == 1, done.stdout + done.stderr
        assert done.stdout.splitlines()[-1] == "1 of 1 comparisons failed"
        assert "FAILED" in done.stdout

    def test_refusals_of_a_detector(self, cli, tiny_bundle, tiny_detector, detector_folder, tmp_path):
        assert cli("parity", tiny_detector).error == (
            f"{tiny_detector} was exported from a folder called small: give it with --weights FOLDER"
        )
        assert cli("parity", tiny_detector, "--case", "box").error == (
            f"{tiny_detector} holds a detector, for which --case says nothing: leave it out"
        )
        assert cli("parity", tiny_bundle, "--text", "cat.").error == (
            f"{tiny_bundle} holds a tracker, for which --text says nothing: leave it out"
        )
        assert "lacks config.json" in cli("parity", tiny_detector, "--weights", tmp_path).error
        other = shutil.copytree(detector_folder, tmp_path / "other")
        weights = bytearray((other / "model.safetensors").read_bytes())
        weights[-1] ^= 1
        (other / "model.safetensors").write_bytes(weights)
        assert "is not what the bundle was exported from: its SHA-256 is" in cli("parity", tiny_detector, "--weights", other).error

    def test_refusals(self, cli, tiny_bundle, small_config, tmp_path):
        unknown = cli("parity", tiny_bundle).error
        assert unknown.startswith("no model is called 'small': ")
        assert unknown.endswith("; of a model of your own, give the YAML file with --config")
        assert cli("parity", tmp_path, "--config", small_config).error.startswith(f"{tmp_path} is not a bundle")
        assert cli("parity", tiny_bundle, "--config", small_config, "--json", "/proc/no/report.json").error.startswith(
            "/proc/no/report.json: "
        )


class TestRefusals:
    @pytest.fixture
    def refused(self, cli, tiny_bundle, small_config):
        return lambda *arguments: cli("parity", tiny_bundle, "--config", small_config, *arguments).error

    def test_nothing_to_compare_with(self, refused):
        assert refused("--no-upstream") == "--no-upstream leaves nothing to compare with: give an FP32 bundle with --reference"

    def test_without_a_clip(self, refused, tiny_bundle):
        assert refused("--reference", tiny_bundle) == "--reference is for tracks: give a clip with --clip FILE"
        assert refused("--box", "1:0,0,9,9") == "prompts need a clip to be tracked: give one with --clip FILE"

    def test_prompts_of_more_clips_than_there_are(self, refused, carphone, bikes, tmp_path):
        for name in ("a.json", "b.json"):
            (tmp_path / name).write_text('{"prompts": [{"object": 1, "box": [10, 10, 50, 50]}]}')
        files = ("--prompts", tmp_path / "a.json", "--prompts", tmp_path / "b.json")
        assert refused("--clip", carphone, *files) == (
            "2 files of --prompts for 1 clips: give one for all of them, or one for each in their order"
        )

    def test_prompts_that_do_not_fit_the_clip(self, refused, carphone):
        assert "frame 30" in refused("--clip", carphone, "--frames", 20, "--box", "30@1:10,10,50,50")
        assert refused("--clip", carphone, "--box", "1:10,10").startswith("box '1:10,10': expected 4 numbers")

    def test_bad_clips(self, refused, carphone, tmp_path):
        assert refused("--clip", carphone, "--clip", tmp_path / "none.mp4") == f"no such file or folder: {tmp_path}/none.mp4"
        assert refused("--clip", carphone, "--frames", 5).endswith("the cases need at least 12; leave them out with --no-cases")

    def test_bad_limits(self, refused, tmp_path):
        own = tmp_path / "own.toml"
        own.write_text("[track.fp32]\nmean = 1\n")
        assert refused("--thresholds", own).startswith(f"thresholds {own}: track.fp32.mean is unknown: choose from logits, ")

    def test_a_report_that_cannot_be_written(self, refused):
        assert refused("--report", "/proc/no/report").startswith("/proc/no/report: ")

    @pytest.mark.parametrize(
        "option", [("--no-cases",), ("--no-upstream",), ("--box", "1:0,0,9,9"), ("--reference", "x"), ("--config", "x")]
    )
    def test_options_of_a_tracker_say_nothing_for_a_detector(self, cli, tiny_detector, option):
        assert cli("parity", tiny_detector, *option).error == (
            f"{tiny_detector} holds a detector, for which {option[0]} says nothing: leave it out"
        )

    def test_a_detector_is_compared_on_one_clip(self, cli, tiny_detector, carphone, bikes):
        assert "give --clip once" in cli("parity", tiny_detector, "--clip", carphone, "--clip", bikes).error


def test_a_detectors_report(tiny_detector, detector_folder, tmp_path):
    done = run_process("parity", tiny_detector, "--weights", detector_folder, "--report", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert report_in(tmp_path)["passed"] is True
    assert "### Frames" in (tmp_path / "report.md").read_text()
