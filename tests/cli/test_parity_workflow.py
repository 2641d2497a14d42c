"""The workflow of parity: its scripts run in a shell, and every command line that they come to is one that `trt-track` has."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from trt_track.cli import app

WORKFLOW = Path(__file__).parents[2] / ".github" / "workflows" / "parity.yml"
OWN = {
    "model": "mine",
    "checkpoint": "weights/my model.pt",
    "config": "mine.yaml",
    "size": "512",
    "precision": "int8",
    "calibrate": "my clips",
    "clip": "clips/a street.mp4",
    "prompts": "prompts.json",
    "frames": "50",
    "thresholds": "parity.toml",
    "package": "trt-track[export]",
}
RECORD = """#!/usr/bin/env python3
import json, sys
with open({log!r}, "a") as log:
    print(json.dumps([{name!r}, *sys.argv[1:]]), file=log)
"""


@pytest.fixture(scope="module")
def workflow():
    return yaml.safe_load(WORKFLOW.read_text())


@pytest.fixture
def commands(workflow, tmp_path, monkeypatch):
    """Run the scripts of all steps with these inputs; return the command lines of the programs that stand in for real ones."""

    def run(inputs):
        log, programs = tmp_path / "log", tmp_path / "bin"
        programs.mkdir()
        for name in ("trt-track", "curl", "pip"):
            (programs / name).write_text(RECORD.format(log=str(log), name=name))
            (programs / name).chmod(stat.S_IRWXU)
        (tmp_path / "parity-report").mkdir()
        (tmp_path / "parity-report" / "report.md").write_text("done\n")
        job = workflow["jobs"]["parity"]
        files = {"GITHUB_ENV": str(tmp_path / "env"), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")}
        given = {name: value_of(value, inputs) for name, value in job["env"].items()}
        environment = os.environ | given | files | {"PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
        for step in job["steps"]:
            script = step.get("run", "").replace("python -m pip", "pip")
            assert "${{" not in script  # inputs come through the environment, where a shell takes them for nothing else
            subprocess.run([shutil.which("bash"), "-eo", "pipefail", "-c", script], cwd=tmp_path, env=environment, check=True)
            if (tmp_path / "env").exists():
                environment |= dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
        assert (tmp_path / "summary").read_text() == "done\n"
        return [json.loads(line) for line in log.read_text().splitlines()]

    return run


def value_of(text, inputs):
    """What GitHub makes of `${{ inputs.NAME || 'DEFAULT' }}`."""
    name, default = re.fullmatch(r"\$\{\{ inputs\.(\w+) \|\| '(.*)' \}\}", text).groups()
    return inputs.get(name) or default


def parsed(command):
    """Let the real command line read a command without running it."""
    program, name, *arguments = command
    assert program == "trt-track"
    group = get_command(app)
    with group.make_context("trt-track", ["doctor"]) as context:
        found = group.get_command(context, name)
        if name == "models":
            with found.make_context(name, list(arguments), parent=context) as inner:
                found, arguments = found.get_command(inner, arguments[0]), arguments[1:]
        return found.make_context(name, list(arguments), parent=context).params


def test_inputs_of_a_caller_have_the_defaults_that_the_job_falls_back_to(workflow):
    triggers, environment = workflow["on"], workflow["jobs"]["parity"]["env"]
    for trigger in ("workflow_call", "workflow_dispatch"):
        for name, given in triggers[trigger]["inputs"].items():
            if name != "package":  # a caller gets what is published, this repository itself
                assert value_of(environment[name.upper()], {}) == str(given["default"])
    asked = set(triggers["workflow_call"]["inputs"])
    assert {name.lower() for name in environment} == asked == set(OWN)
    assert set(triggers["workflow_dispatch"]["inputs"]) == asked - {"package"}
    assert len(triggers["workflow_dispatch"]["inputs"]) <= 10  # older servers take no more


def test_nothing_is_taken_for_granted_of_a_callers_repository(workflow):
    """A cache of pip, for one, fails where no file is found to tell its key by."""
    (python,) = (step for step in workflow["jobs"]["parity"]["steps"] if "setup-python" in step.get("uses", ""))
    assert set(python["with"]) == {"python-version"}


def test_on_a_pull_request_the_embedded_model_is_compared(commands, bikes):
    pip, *ours = commands({})
    assert pip == ["pip", "install", ".[demo,eval,export]"]
    assert [command[1] for command in ours] == ["export", "export", "parity"]
    exports, parity = [parsed(command) for command in ours[:2]], parsed(ours[2])
    assert [(one["model"], one["precision"], str(one["out"])) for one in exports] == [
        ("pico", "fp32", "parity-bundles/fp32"),
        ("pico", "fp16", "parity-bundles/judged"),
    ]
    assert [one["calibrate"] for one in exports] == [None, None]
    assert (str(parity["bundle"]), str(parity["reference"]), str(parity["report"])) == (
        "parity-bundles/judged",
        "parity-bundles/fp32",
        "parity-report",
    )
    assert ([Path(clip).resolve() for clip in parity["clip"]], parity["frames"]) == ([bikes.resolve()], 200)
    assert bikes.is_file()


def test_a_caller_has_its_own_weights_clip_and_limits_compared(commands):
    pip, *ours = commands(OWN)
    assert pip == ["pip", "install", "trt-track[export]"]
    first, second, parity = map(parsed, ours)
    for one in (first, second):
        assert (one["model"], str(one["checkpoint"]), str(one["config"]), one["size"]) == ("mine", "weights/my model.pt", "mine.yaml", 512)
    assert (first["precision"], second["precision"]) == ("fp32", "int8")
    assert (first["calibrate"], str(second["calibrate"])) == (None, "my clips")
    assert [str(clip) for clip in parity["clip"]] == ["clips/a street.mp4"]
    assert (list(map(str, parity["prompts"])), str(parity["thresholds"]), parity["frames"]) == (["prompts.json"], "parity.toml", 50)
    assert (str(parity["checkpoint"]), str(parity["config"])) == ("weights/my model.pt", "mine.yaml")


def test_published_weights_are_pulled(commands):
    _, pull, *others = commands({"model": "sam2.1-hiera-tiny"})
    assert pull[1:] == ["models", "pull", "sam2.1-hiera-tiny"]
    assert parsed(pull)
    assert all(parsed(command) for command in others)


def test_a_checkpoint_at_an_address_is_fetched(commands):
    _, fetch, *others = commands({"checkpoint": "https://example.org/weights.pt"})
    assert (fetch[0], fetch[-1]) == ("curl", "https://example.org/weights.pt")
    assert {str(parsed(command)["checkpoint"]) for command in others} == {"checkpoint.pt"}
