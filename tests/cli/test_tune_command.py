"""`trt-track tune`: times of batches go into the bundle, and tracking takes the batches that they recommend."""

import json
import shutil

import numpy as np
import onnxruntime
import pytest
from run_results import id_map, read_lines

from trt_track.bench import batch_timing

BOXES = ("--box", "1:265,60,390,250", "--box", "2:20,20,200,200", "--box", "3:400,100,600,200")


@pytest.fixture(autouse=True)
def every_batch(monkeypatch):
    """Measure them all, however long they take on a busy machine."""
    monkeypatch.setattr(batch_timing, "WORSE", float("inf"))


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


def test_tune_then_run(cli, bundle, bikes, tmp_path):
    done = cli("tune", "--bundle", bundle, "--rounds", 1, "--max-objects", 3, "--video", "64x48")
    assert done.code == 0, done
    rows = [line.split() for line in done.out.splitlines() if line[:1].isdigit()]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    path = bundle / "batch_times.json"
    assert done.out.splitlines()[-1] == str(path)
    (measured,) = json.loads(path.read_text())["measured"]
    assert (measured["backend"], measured["version"]) == ("onnxruntime-cpu", onnxruntime.__version__)
    assert measured["device"].startswith("CPU, ")
    assert [float(row[1]) for row in rows] == [pytest.approx(taken, abs=0.01) for taken in measured["milliseconds"].values()]

    masks = {}
    for name, times in {"one by one": {"1": 1.0, "2": 3.0, "3": 9.0}, "together": {"1": 1.0, "2": 1.0, "3": 1.0}}.items():
        path.write_text(json.dumps({"format": 1, "measured": [{**measured, "milliseconds": times}]}))
        done = cli("run", bikes, "--bundle", bundle, "--out", tmp_path / name, "--save", "jsonl", "--max-frames", 4, *BOXES)
        assert done.code == 0, done
        assert json.loads((tmp_path / name / "run.json").read_text())["settings"]["batch_times"] == times
        masks[name] = [id_map(line, 272, 640) for line in read_lines(tmp_path / name)]
    assert len(masks["together"]) == 4
    assert np.mean(np.stack(masks["one by one"]) != np.stack(masks["together"])) < 0.01  # but for last bits


def test_what_was_measured_here_replaces_what_was_measured_before(cli, bundle):
    for largest in (1, 2):
        assert cli("tune", "--bundle", bundle, "--rounds", 1, "--max-objects", largest, "--video", "64x48").code == 0
    (measured,) = json.loads((bundle / "batch_times.json").read_text())["measured"]
    assert list(measured["milliseconds"]) == ["1", "2"]


def test_bad_input(cli, bundle, bikes, tiny_detector, tmp_path):
    assert "write it like 1920x1080" in cli("tune", "--bundle", bundle, "--video", "big").error
    assert "is not a bundle" in cli("tune", "--bundle", tmp_path).error
    assert "which cannot track" in cli("tune", "--bundle", tiny_detector).error
    assert "not both" in cli("tune", "--bundle", bundle, "--model", "pico").error
    assert cli("tune", "--bundle", bundle, "--rounds", 0).code == 2
    (bundle / "batch_times.json").write_text("{")
    assert "run trt-track tune again" in cli("run", bikes, "--bundle", bundle, "--out", tmp_path / "out", *BOXES).error
