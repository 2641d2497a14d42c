"""Runs that end early: damaged clips, Ctrl-C, a full disk. What was written before must be readable."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import av
import pytest
from command_line import run_process
from run_results import frames_of, read_lines, read_movie

BOX = "1:265,60,390,250"


@pytest.fixture
def cut_clip(bikes, tmp_path) -> Path:
    """bikes.mp4 with its index in front, and the last 40 % of the file missing."""
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    with av.open(str(bikes)) as read, av.open(str(whole), "w", container_options={"movflags": "faststart"}) as write:
        stream = write.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            if packet.size:
                packet.stream = stream
                write.mux(packet)
    content = whole.read_bytes()
    cut.write_bytes(content[: len(content) * 6 // 10])
    return cut


def test_a_clip_that_ends_early_is_tracked_up_to_there(cli, tiny_bundle, cut_clip, tmp_path):
    out = tmp_path / "out"
    done = cli("run", cut_clip, "--bundle", tiny_bundle, "--box", f"100@{BOX}", "--out", out, "--save", "jsonl,video")
    assert done.code == 3
    assert done.out == f"{out}\n"
    warning = done.err.splitlines()[-1]
    assert warning.startswith("warning: the clip ends early: ")
    assert warning.endswith(": results end there")

    frames = frames_of(out)
    assert 110 < len(frames) + 100 < 200
    assert frames == list(range(100, 100 + len(frames)))
    assert read_movie(out / "tracked.mp4").frames == len(frames)
    run = json.loads((out / "run.json").read_text())
    assert run["clip"]["damage"] == warning.removeprefix("warning: ").removesuffix(": results end there")
    assert run["clip"]["frames"] == 250
    assert run["frames_written"] == len(frames)


def test_damage_that_is_not_reached_is_none(cli, tiny_bundle, cut_clip, tmp_path):
    done = cli("run", cut_clip, "--bundle", tiny_bundle, "--box", BOX, "--out", tmp_path / "out", "--save", "jsonl", "--max-frames", 3)
    assert done.code == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["clip"]["damage"] is None


def test_a_prompt_behind_the_damage_has_no_frame(cli, tiny_bundle, cut_clip, tmp_path):
    common = ("run", cut_clip, "--bundle", tiny_bundle, "--box", f"249@{BOX}", "--save", "jsonl", "--out", tmp_path / "out")
    assert "of 250 cannot be read" in cli(*common, "--reverse").error
    assert not (tmp_path / "out").exists()
    done = cli(*common)
    assert done.code == 3
    assert json.loads((tmp_path / "out" / "run.json").read_text())["frames_written"] == 0


def interruptible(command):
    """Start a process that Ctrl-C reaches, even where this one was started in the background, which has it ignored."""
    heed = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed)  # noqa: PLW1509 - one thread


def interrupted(arguments, out: Path, after_lines: int) -> tuple[int, str, str]:
    """Start a run, send it SIGINT once that many lines are written, and return how it ended."""
    command = [sys.executable, "-m", "trt_track", "run", *map(str, arguments), "--out", str(out)]
    process = interruptible(command)
    deadline = time.monotonic() + 60
    tracks = out / "tracks.jsonl"
    while process.poll() is None and time.monotonic() < deadline:
        if tracks.exists() and tracks.read_bytes().count(b"\n") >= after_lines:
            process.send_signal(signal.SIGINT)
            break
        time.sleep(0.02)
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr


def test_ctrl_c_keeps_what_was_tracked(tiny_bundle, bikes, tmp_path, cli):
    out = tmp_path / "out"
    code, stdout, stderr = interrupted([bikes, "--bundle", tiny_bundle, "--box", BOX], out, after_lines=20)
    assert code == 130, stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    assert "interrupted after " in stderr.splitlines()[-1]

    lines = read_lines(out)
    assert 20 <= len(lines) < 250
    assert [line["frame"] for line in lines] == list(range(len(lines)))
    assert read_movie(out / "tracked.mp4").frames == len(lines)
    assert len(list((out / "masks").iterdir())) == len(lines)
    assert not (out / "run.json").exists()
    assert (out / "run.unfinished").exists()

    again = cli("run", bikes, "--bundle", tiny_bundle, "--box", BOX, "--out", out, "--max-frames", 2)
    assert again.code == 0, "an unfinished run is replaced without --overwrite"
    assert frames_of(out) == [0, 1]


def test_ctrl_c_while_the_model_is_loaded(tiny_bundle, bikes, tmp_path):
    arguments = ["run", bikes, "--bundle", tiny_bundle, "--box", BOX, "--out", tmp_path / "out"]
    command = [sys.executable, "-m", "trt_track", *map(str, arguments)]
    process = interruptible(command)
    assert process.stderr.readline().startswith("backend: ")  # said just before it is loaded
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    assert "Traceback" not in stderr
    assert not (tmp_path / "out" / "run.json").exists()


LIMIT_BYTES = {"jsonl": 60_000, "video": 1_000_000}


def limit_file_size(most: int):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


@pytest.mark.parametrize("kind", ["jsonl", "video"])
def test_a_full_disk_keeps_what_was_written(tiny_bundle, bikes, tmp_path, kind):
    out = tmp_path / "out"
    arguments = ("run", bikes, "--bundle", tiny_bundle, "--box", BOX, "--out", out, "--save", kind, "--max-frames", 150)
    done = run_process(*arguments, preexec_fn=lambda: limit_file_size(LIMIT_BYTES[kind]))
    assert done.returncode == 2, done.stderr
    errors = done.stderr.splitlines()
    assert errors[-1].startswith(f"error: {out}")
    assert "what was written before is kept" in errors[-1]
    assert len(errors) == 2  # the backend and why it was chosen, and the error
    assert done.stdout == ""
    assert not (out / "run.json").exists()
    assert os.path.getsize(out / {"jsonl": "tracks.jsonl", "video": "tracked.mp4"}[kind]) <= LIMIT_BYTES[kind]
    if kind == "jsonl":
        assert frames_of(out) == list(range(len(frames_of(out))))
        assert frames_of(out)
    else:
        assert read_movie(out / "tracked.mp4").frames > 0
