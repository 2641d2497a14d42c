import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import tiny_graphs as tiny

from trt_track.engines import backends
from trt_track.engines.backends import BACKENDS, CPU, CUDA, Machine, available_backends, choose_backend, open_session
from trt_track.engines.device_memory import Gpu
from trt_track.engines.engine_record import EngineFolder, EngineRecord
from trt_track.engines.file_record import FileRecord
from trt_track.engines.profiles import graph_profile
from trt_track.errors import BackendError, EngineRunError
from trt_track.specs import Limits

RTX, FULL = "tensorrt-rtx", "tensorrt"
CARD = Gpu("RTX 4070", 89, 7 << 30, 8 << 30)
NO_DRIVER = "no NVIDIA driver: install it"
NOT_INSTALLED = "tensorrt is not installed: pip install it"


def machine(gpu=CARD, **faults):
    named = {name.replace("_", "-"): why for name, why in faults.items()}
    versions = {name: version for name, version in ((RTX, "1.7"), (FULL, "10.14"), (CUDA, "1.31"), (CPU, "1.31")) if name not in named}
    return Machine(versions, named, gpu, "" if gpu else NO_DRIVER)


def add_engines(bundle, flavour, version, target="sm89"):
    folder = EngineFolder.at(bundle, flavour, version, target)
    folder.folder.mkdir(parents=True)
    for name, spec in bundle.specs.items():
        path = folder.folder / f"{name}.engine"
        path.write_bytes(b"plan")
        profile = graph_profile(spec, bundle.model, Limits())
        record = EngineRecord(name, FileRecord.of(folder.folder, path), bundle.record(name).onnx.sha256, profile, Limits(), 0.1, "x.log")
        folder = folder.with_record(record)


@pytest.fixture
def bundle(tmp_path):
    return tiny.write_bundle(tmp_path / "tiny", tiny.FRAME, tiny.UPSCALE)


def test_each_backend_says_whether_and_why():
    statuses = {status.name: status for status in available_backends(machine(tensorrt=NOT_INSTALLED))}
    assert tuple(statuses) == BACKENDS
    assert (statuses[RTX].usable, statuses[RTX].reason, statuses[RTX].version) == (True, "runs on RTX 4070, SM 8.9 (RTX 40)", "1.7")
    assert (statuses[FULL].usable, statuses[FULL].reason, statuses[FULL].version) == (False, NOT_INSTALLED, None)
    assert (statuses[CPU].usable, statuses[CPU].reason) == (True, "runs on the CPU")


def test_without_a_gpu_only_the_cpu_is_left(bundle):
    found = machine(gpu=None)
    assert [status.usable for status in available_backends(found)] == [False, False, False, True]
    name, reason = choose_backend("auto", bundle, found)
    assert name == CPU
    assert reason == f"{CPU} 1.31 on the CPU ({RTX} and {FULL} and {CUDA} were passed over: {NO_DRIVER})"


@pytest.mark.parametrize(("fault", "expected"), [(None, CUDA), ("ONNX Runtime cannot load its CUDA provider", CPU)])
def test_a_gpu_without_engines_is_used_through_onnx_runtime_if_that_can_use_cuda(bundle, monkeypatch, fault, expected):
    monkeypatch.setattr(backends, "_cuda_fault", lambda _: fault)
    name, reason = choose_backend("auto", bundle, machine())
    assert name == expected
    assert f"{expected} 1.31 on {'RTX 4070, SM 8.9' if fault is None else 'the CPU'}" in reason
    assert "has no engines yet: run trt-track build" in reason
    add_engines(bundle, RTX, "1.7")
    assert choose_backend("auto", bundle, machine())[0] == RTX


def test_cuda_is_tried_with_the_smallest_graph_before_it_is_chosen(bundle):
    """Here there is no driver, so it is passed over, although a GPU is said to be there."""
    with pytest.raises(BackendError, match=f"backend {CUDA} cannot be used: "):
        choose_backend(CUDA, bundle, machine())


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        ((), CPU),
        (((RTX, "1.7"),), RTX),
        (((FULL, "10.14"),), FULL),
        (((RTX, "1.7"), (FULL, "10.14")), RTX),
        (((RTX, "1.6"),), CPU),
        (((RTX, "1.7", "sm86"),), CPU),
        (((RTX, "1.7", "all"),), RTX),
    ],
)
def test_auto_takes_the_first_that_has_engines_for_this_gpu(bundle, built, expected):
    for engines in built:
        add_engines(bundle, *engines)
    name, reason = choose_backend("auto", bundle, machine())
    assert name == expected
    assert "\n" not in reason
    assert reason.startswith(expected)


@pytest.mark.parametrize(
    ("name", "found", "message"),
    [
        (RTX, machine(gpu=None), f"backend {RTX} cannot be used: {NO_DRIVER}"),
        (RTX, machine(), f"backend {RTX} cannot be used: .* has no engines yet: run trt-track build"),
        (FULL, machine(tensorrt=NOT_INSTALLED), f"backend {FULL} cannot be used: {NOT_INSTALLED}"),
        (CPU, machine(**{"onnxruntime-cpu": "gone"}), "cannot be used: gone"),
        ("cuda", machine(), "backend 'cuda' is unknown: choose one of auto, tensorrt-rtx"),
        ("auto", machine(gpu=None, **{"onnxruntime-cpu": "gone"}), "no backend can be used: .*gone"),
    ],
)
def test_a_named_backend_is_used_or_refused_never_replaced(bundle, name, found, message):
    with pytest.raises(BackendError, match=message):
        choose_backend(name, bundle, found)


def test_advice_names_the_backend_to_build_for(bundle):
    with pytest.raises(BackendError, match=r"run trt-track build \S+ --target local$"):
        choose_backend(RTX, bundle, machine())
    with pytest.raises(BackendError, match=r"run trt-track build \S+ --target local --backend tensorrt$"):
        choose_backend(FULL, bundle, machine())


def test_auto_passes_over_engines_whose_files_are_gone(bundle):
    add_engines(bundle, RTX, "1.7")
    (bundle.folder / "engines" / "tensorrt-rtx-1.7" / "sm89" / "upscale.engine").unlink()
    name, reason = choose_backend("auto", bundle, machine())
    assert name == CPU
    assert "upscale.engine is missing: run trt-track build" in reason


def test_auto_passes_over_engines_of_other_graphs(bundle):
    add_engines(bundle, RTX, "1.7")
    record = bundle.folder / "engines" / "tensorrt-rtx-1.7" / "sm89" / "engine.json"
    record.write_text(record.read_text().replace(bundle.record("frame").onnx.sha256, 64 * "0"))
    name, reason = choose_backend("auto", bundle, machine())
    assert name == CPU
    assert "engine 'frame' was built from another ONNX file than the bundle's" in reason


def test_engines_of_only_some_graphs_are_not_enough(bundle):
    add_engines(bundle, RTX, "1.7")
    grown = tiny.write_bundle(bundle.folder.parent / "grown", tiny.FRAME, tiny.UPSCALE, tiny.SUM)
    (bundle.folder / "engines").rename(grown.folder / "engines")
    with pytest.raises(BackendError, match="lacks memory_sum: run trt-track build"):
        choose_backend(RTX, grown, machine())


def test_the_cpu_session_runs_a_bundle(bundle):
    with open_session(bundle, CPU, threads=1) as session:
        assert session.backend == CPU
        assert session.specs == bundle.specs
        assert (session.version, session.device) == (metadata.version("onnxruntime-gpu"), "CPU")
    with pytest.raises(EngineRunError, match="the session is closed"):
        session.run("frame", {}, {})


def test_this_machine_can_be_inspected():
    statuses = available_backends()
    assert [status.name for status in statuses] == list(BACKENDS)
    assert all(status.reason and "\n" not in status.reason for status in statuses)


def test_nothing_heavy_is_imported_before_it_is_needed():
    modules = ["backends", "bundle", "tensorrt_builder", "tensorrt_session"]
    heavy = ["tensorrt", "tensorrt_rtx", "cuda.core", "cuda.bindings", "onnx", "onnxruntime", "torch"]
    code = (
        f"import sys; {'; '.join(f'import trt_track.engines.{name}' for name in modules)}; print([n for n in {heavy} if n in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize(("word", "door"), [("tensorrt_rtx", "tensorrt_door"), ("cuda.core", "cuda_door"), ("cuda.bindings", "cuda_door")])
def test_each_library_has_one_door(word, door):
    folder = Path(backends.__file__).parent
    imports = {path.stem: [line.strip() for line in path.read_text().splitlines()] for path in folder.glob("*.py")}
    users = {name for name, lines in imports.items() if any(line.startswith(("import ", "from ")) and word in line for line in lines)}
    assert users <= {door}
