"""The process of the first stage: how it is started, and what is said where it cannot say anything itself."""

import logging
import subprocess
from pathlib import Path

import pytest
import typer

from trt_track.cli import detection_process
from trt_track.cli.detection_process import run_detection


@pytest.fixture
def started(monkeypatch):
    """Start nothing; return what would have been started."""
    commands = []

    def run(command, **_):
        commands.append(command[1:])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(detection_process.subprocess, "run", run)
    return commands


def test_options_reach_it_as_they_were_given(started):
    run_detection(
        Path("-clip.mp4"), {"--text": "cat", "--threads": None, "--scene-cuts": True, "--hardware-decode": False, "--detect-every": 5}
    )
    expected = ["-P", "-m", "trt_track", "detect", "--scene-cuts", "--text", "cat", "--detect-every", "5", "--", "-clip.mp4"]
    assert started == [expected]


def test_it_is_as_talkative_as_its_parent(started, caplog):
    caplog.set_level(logging.INFO)
    run_detection(Path("clip.mp4"), {})
    assert started == [["-P", "-m", "trt_track", "--verbose", "detect", "--", "clip.mp4"]]


def test_a_package_of_this_name_in_the_current_folder_is_not_run(tmp_path, monkeypatch, capfd):
    (tmp_path / "trt_track").mkdir()
    for name in ("__init__", "__main__"):
        (tmp_path / "trt_track" / f"{name}.py").write_text("open('was_run', 'w')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(typer.Exit) as ended:
        run_detection(Path("no-such.mp4"), {"--text": "cat"})
    assert ended.value.exit_code == 2
    assert "no such file or folder: no-such.mp4" in capfd.readouterr().err
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        (
            "KILL",
            137,
            "error: detection was ended by signal 9 (Killed), as a system does that is short of memory: free some, or take a smaller",
        ),
        ("TERM", 143, "error: detection was ended by signal 15 (Terminated): trt-track --verbose detect tells how far it comes"),
    ],
)
def test_a_signal_that_ended_it_is_told_in_one_line(tmp_path, monkeypatch, capsys, name, code, message):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nkill -{name} $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(detection_process.sys, "executable", str(program))
    with pytest.raises(typer.Exit) as ended:
        run_detection(Path("clip.mp4"), {})
    assert ended.value.exit_code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message)
