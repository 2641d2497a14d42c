"""The file of detections: what is read is what was written, and nothing else is taken for it or replaced by it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from trt_track.errors import OutputError, PromptError
from trt_track.runtime.detections import Detection, DetectionWriter, FrameDetections, part_of, read_detections
from trt_track.runtime.memory_peak import MemoryPeak

HEADER = {"format": 1, "clip": {"name": "clip.mp4"}, "schedule": {"every": 5}}
FRAME = {"frame": 0, "detections": [{"box": [1, 2, 30, 40], "score": 0.5, "label": "cat", "words": "cat"}]}
LAST = {"finished": True, "frames": 1}


def write_lines(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def changed(**values):
    return {"frame": 0, "detections": [FRAME["detections"][0] | values]}


@pytest.mark.parametrize("peak", [None, MemoryPeak(resident=7, gpu=None), MemoryPeak(resident=7, gpu=9)])
def test_what_was_written_is_read(tmp_path, peak):
    path = tmp_path / "found.jsonl"
    with DetectionWriter(path, HEADER) as writer:
        writer.write(FrameDetections(3, (Detection(np.array([1, 2, 30, 40], np.float32), 0.5, "cat", "cat"),)))
        assert not path.exists()
        writer.finish(peak)
    read = read_detections(path)
    assert (read.header, [one.frame for one in read.frames], read.frames[0].found[0].label) == (HEADER, [3], "cat")
    assert read.peak == (peak or MemoryPeak())
    assert [file.name for file in tmp_path.iterdir()] == ["found.jsonl"]


def test_a_file_without_peaks_has_unknown_ones(tmp_path):
    assert read_detections(write_lines(tmp_path / "found.jsonl", {"header": HEADER}, FRAME, LAST)).peak == MemoryPeak()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (({"header": 3}, FRAME, LAST), "malformed .*does not describe a clip"),
        (({"header": {"clip": "clip.mp4"}}, FRAME, LAST), "malformed .*does not describe a clip"),
        (({"header": {"schedule": 5}}, FRAME, LAST), "malformed .*does not describe a clip"),
        (({"header": {"schedule": {"every": "5"}}}, FRAME, LAST), "malformed .*every '5'th frame"),
        (({"header": {"schedule": {"every": 0}}}, FRAME, LAST), "malformed .*every 0th frame"),
        (({"header": HEADER}, FRAME, LAST | {"frames": 99}), "malformed .*tells of 99 frames, 1 are there"),
        (({"header": HEADER}, FRAME, {"finished": True}), "malformed .*tells of None frames"),
        (({"header": HEADER}, FRAME, LAST | {"peak_memory_bytes": 3}), "malformed .*3 are no amounts of memory"),
        (({"header": HEADER}, FRAME, LAST | {"peak_memory_bytes": {"gpu": "much"}}), "malformed .*are no amounts of memory"),
        (({"header": HEADER}, FRAME, LAST | {"peak_memory_bytes": {"disk": 3}}), "malformed"),
        (({"header": HEADER, "finished": True, "frames": 0},), "is not complete"),
        (({"header": HEADER}, FRAME | {"frame": float("inf")}, LAST), "malformed"),
        (({"header": HEADER}, FRAME | {"frame": None}, LAST), "malformed"),
        (({"header": HEADER}, FRAME | {"detections": 7}, LAST), "malformed"),
        (({"header": HEADER}, FRAME | {"detections": ["cat"]}, LAST), "malformed"),
        (({"header": HEADER}, changed(box=[10**400, 0, 1, 1]), LAST), "malformed"),
        (({"header": HEADER}, changed(box=[[1], 2, 3, 4]), LAST), "malformed"),
        (({"header": HEADER}, changed(score=float("nan")), LAST), "malformed .*nan is no score"),
        (({"header": HEADER}, changed(score=[0.5]), LAST), "malformed"),
        (([], LAST), "holds no detections"),
        ((), "holds no detections"),
    ],
)
def test_what_is_malformed_is_refused(tmp_path, lines, message):
    with pytest.raises(PromptError, match=message):
        read_detections(write_lines(tmp_path / "found.jsonl", *lines))


@pytest.mark.parametrize("name", ["found.jsonl", "found.jsonl.part"])
@pytest.mark.parametrize("content", [b"mine", b"\x00\x00\x00\x18ftypmp42", b'{"frame":0,"time_s":0.0}\n'])
def test_what_holds_no_detections_is_not_replaced(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OutputError, match=f"{name}: is there already and holds no detections: choose another --out"):
        DetectionWriter(tmp_path / "found.jsonl", HEADER)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(name, content)]


def test_a_folder_is_not_replaced(tmp_path):
    with pytest.raises(OutputError, match="holds no detections"):
        DetectionWriter(tmp_path, HEADER)


@pytest.mark.parametrize("before", [b"", b'{"header": {}}\n'])
def test_older_detections_and_empty_files_are_replaced(tmp_path, before):
    path = tmp_path / "found.jsonl"
    for place in (path, part_of(path)):
        place.write_bytes(before)
    with DetectionWriter(path, HEADER) as writer:
        writer.finish()
    assert read_detections(path).header == HEADER
