"""`trt-track plan`: what it says fits, fits; and what it is told in vain."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from trt_track.cli.plan_command import parse_bytes, parse_video
from trt_track.errors import BackendError, VideoError

GIB = 1 << 30
HEAVY = {"numpy", "tensorrt_rtx", "cuda", "onnxruntime", "av", "pynvml", "torch"}


@pytest.fixture(autouse=True)
def library(tmp_path, monkeypatch):
    monkeypatch.setenv("TRT_TRACK_CACHE", str(tmp_path))


@pytest.fixture
def no_gpu(monkeypatch):
    """A driver's library that is not there, whatever machine the test runs on."""
    pynvml = pytest.importorskip("pynvml")

    def missing():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)


@pytest.fixture
def some_gpu(monkeypatch):
    """A driver's library that tells of one GPU."""
    fake = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(free=6 * GIB, total=8 * GIB),
        nvmlDeviceGetCudaComputeCapability=lambda handle: (7, 5),
        nvmlDeviceGetName=lambda handle: f"Fake RTX {handle}",
    )
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", fake)


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("8GiB", 8 * GIB),
        ("8192MiB", 8 * GIB),
        ("8GB", 8 * 10**9),
        ("8000mb", 8 * 10**9),
        (" 7.5 gib ", int(7.5 * GIB)),
        *((text, None) for text in ("", "8", "8G", "GiB", "-8GiB", "0GiB", "0.0MiB", "1e3GiB", "8 GiB free", "nan GiB", "８GiBx")),
    ],
)
def test_amounts_of_memory(text, nbytes):
    if nbytes is None:
        with pytest.raises(BackendError, match="is no amount of memory: write it like 8GiB, 8GB or 8192MiB"):
            parse_bytes(text)
    else:
        assert parse_bytes(text) == nbytes


@pytest.mark.parametrize(
    ("text", "video_wh"),
    [
        ("1920x1080", (1920, 1080)),
        ("2160X3840", (2160, 3840)),
        ("1x1", (1, 1)),
        *((text, None) for text in ("", "1920", "1920x", "x", "0x9", "9x0", "-1x5", "1.5x2", "3841x10", "10x3841", "1080p")),
    ],
)
def test_sizes_of_videos(text, video_wh):
    if video_wh is None:
        with pytest.raises(VideoError, match="is no size of a video: write it like 1920x1080, up to 3840 pixels a side"):
            parse_video(text)
    else:
        assert parse_video(text) == video_wh


def test_an_8_gb_card_takes_the_largest_model_with_16_objects(cli):
    done = cli("plan", "--gpu", "RTX 4060", "--objects", 16, "--video", "1920x1080", "--json")
    assert done.code == 0
    assert done.err.startswith(
        "warning: the system takes about 5 to 10 % of a GPU's memory: planned with 7.4 GiB of the 8.0 GiB of RTX 4060"
    )
    found = json.loads(done.out)
    best = found["choices"][0]
    assert (best["model"], best["size"], best["precision"], best["objects"], best["batch"]) == ("sam2.1-hiera-large", 1024, "fp16", 16, 16)
    assert best["total_bytes"] == sum(part["bytes"] for part in best["parts"] if not part["pinned"]) < found["gpu"]["free_bytes"]
    assert found["detectors"][0]["detector"] == "grounding-dino-base"
    assert found["detectors"][0]["batch"] == 3
    assert found["reasons"] == found["too_large"] == []
    told = cli("plan", "--gpu", "RTX 4060").out
    assert "detection with grounding-dino-base 800x1333, 3 frames a call (trt-track build --frames 3): 3.5 GiB" in told


def test_the_table_says_what_json_says(cli):
    told = cli("plan", "--vram", "3GB", "--video", "640x480")
    found = json.loads(cli("plan", "--vram", "3GB", "--video", "640x480", "--json").out)
    assert (told.code, told.err) == (0, "")
    for one in found["choices"]:
        row = next(line.split() for line in told.out.splitlines() if line.split()[:2] == [one["model"], str(one["size"])])
        assert row[2:5] == ["fp16", str(one["objects"]), str(one["batch"])]
    for part in found["choices"][0]["parts"]:
        shown = f"{part['bytes'] / 2**20:.1f}"
        assert part["pinned"] or any(line.startswith(part["name"]) and shown in line.split() for line in told.out.splitlines()), part
    for reason in found["reasons"]:
        assert f"  {reason}" in told.out.splitlines()
    assert "sam2.1-hiera-large at 1024 px needs 3.9 GiB for 8 objects, 2.8 GiB are free" in found["reasons"]


def test_nothing_fits(cli):
    done = cli("plan", "--vram", "100MiB")
    assert done.code == 1
    assert "nothing fits" in done.out
    assert "pico at 256 px needs" in done.out
    assert cli("plan", "--vram", "100MiB", "--json").code == 1


@pytest.mark.usefixtures("some_gpu")
def test_the_gpu_that_is_present_is_asked(cli):
    found = json.loads(cli("plan", "--json").out)
    assert found["gpu"] == {"name": "Fake RTX 0", "sm": 75, "free_bytes": 6 * GIB, "total_bytes": 8 * GIB}
    assert found["choices"][0]["batch"] == 8
    assert any(reason.startswith("sam2.1-hiera-large at 1024 px needs 6.") for reason in found["reasons"])


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), 'say how much memory is free, --vram 8GiB, or which GPU it is, --gpu "RTX 4060"'),
        (("--vram", "lots"), "--vram 'lots' is no amount of memory"),
        (("--vram", "0GiB"), "is no amount of memory"),
        (("--gpu", "Voodoo 2"), "GPU 'Voodoo 2' is not in the table"),
        (("--gpu", "RTX 4061"), "RTX 4060"),
        (("--vram", "8GiB", "--gpu", "Voodoo 2"), "is not in the table"),
        (("--vram", "8GiB", "--video", "1080p"), "--video '1080p' is no size of a video"),
        (("--vram", "8GiB", "--video", "7680x4320"), "up to 3840 pixels a side"),
        (("--vram", "8GiB", "--model", "sam3"), "what sam3 takes was not measured"),
        (("--vram", "8GiB", "--model", "sam2.1-hiera-large", "--size", "300"), "sam2.1-hiera-large at 300 px takes was not measured"),
        (("--vram", "8GiB", "--size", "300"), "any model at 300 px"),
        (("--vram", "8GiB", "--detector", "yolo"), "what yolo takes was not measured: choose one of"),
    ],
)
def test_bad_input_is_one_line(cli, arguments, message):
    assert message in cli("plan", *arguments).error


@pytest.mark.parametrize("arguments", [("--objects", "0"), ("--objects", "65"), ("--objects", "many"), ("--size", "big")])
def test_bad_numbers_are_refused(cli, arguments):
    assert cli("plan", "--vram", "8GiB", *arguments).code == 2


def test_a_missing_nvidia_ml_py_says_how_to_get_it(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "nvidia-ml-py is not installed: pip install 'trt-track[rtx]'" in cli("plan").error


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['trt-track', 'plan', '--help']\nfrom trt_track.cli import app\ntry:\n    app()\nexcept SystemExit: pass\n"
    )
    code += "print('modules:', ','.join({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert set(done.stdout.rsplit("modules: ", 1)[1].strip().split(",")) & HEAVY == set()
