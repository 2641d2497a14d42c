"""Who may import whom, and that the command line starts without anything heavy."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "torchvision", "sam2", "onnx", "onnxruntime", "onnxscript", "tensorrt", "tensorrt_rtx", "cuda", "numpy", "av", "PIL"}
HEAVY |= {"scipy", "supervision", "pycocotools", "matplotlib", "cv2", "hydra", "omegaconf"}
REPORT = "import sys; print('\\nmodules:', ','.join({name.partition('.')[0] for name in sys.modules}))"


def modules_after(code: str) -> set[str]:
    """Top-level names of everything that is imported in a fresh process once `code` has run."""
    done = subprocess.run([sys.executable, "-c", f"{code}\n{REPORT}"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rsplit("modules: ", 1)[1].strip().split(","))


def command(*arguments: str) -> str:
    return f"import sys; sys.argv = {['trt-track', *arguments]}\nfrom trt_track.cli import app\ntry:\n    app()\nexcept SystemExit: pass"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["demo", "--help"], ["export", "--help"], ["parity", "--help"], ["--version"]]
)
def test_help_imports_nothing_heavy(arguments):
    assert modules_after(command(*arguments)) & HEAVY == set()


def test_the_package_itself_imports_nothing_heavy():
    assert modules_after("import trt_track") & HEAVY == set()


def test_tracking_imports_nothing_of_the_exporter():
    found = modules_after("import trt_track.runtime.tracker, trt_track.engines.backends, trt_track.engines.onnxruntime_session")
    assert {"numpy", "onnxruntime", "av"} <= found  # or this test would see nothing
    assert found & {"torch", "sam2", "onnx", "onnxscript", "scipy"} == set()


def test_listing_models_needs_no_pytorch():
    assert "torch" not in modules_after(command("models", "list"))


def test_contracts_of_import_linter_hold():
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_the_installed_command_turns_errors_into_one_line():
    """The entry point that pip installs, not `python -m trt_track`."""
    program = Path(sys.executable).with_name("trt-track")
    done = subprocess.run([program, "run", "no-such-clip.mp4"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
