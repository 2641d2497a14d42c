"""Which clip is the same one."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from clip_maker import write_clip

from trt_track.errors import PromptError
from trt_track.runtime.clip_facts import check_same_clip, clip_facts
from trt_track.runtime.held_clip import HeldClip
from trt_track.runtime.video import open_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=6)  # 96x64


def info_of(path):
    with open_video(path) as source:
        return source.info


def test_a_copy_under_another_name_is_the_same_clip(clip, tmp_path):
    copied = shutil.copyfile(clip, tmp_path / "renamed.mp4")
    check_same_clip(clip_facts(info_of(clip)), info_of(copied), whose="found.jsonl")


@pytest.mark.parametrize(
    ("differing", "message"),
    [
        ({"width": 64}, "of 64x64 pixels, 6 frames, "),
        ({"frames": 7}, "of 96x64 pixels, 7 frames, "),
        ({"bytes": 5}, "of 96x64 pixels, 6 frames, 5 bytes; "),
        ({"height": None}, "of 96xNone pixels"),
    ],
)
def test_others_are_refused(clip, differing, message):
    info = info_of(clip)
    with pytest.raises(PromptError) as refused:
        check_same_clip(clip_facts(info) | differing, info, whose="found.jsonl")
    assert str(refused.value).startswith(f"found.jsonl is of another clip, {message}")
    assert f"{clip} has 96x64 pixels, 6 frames, {clip.stat().st_size} bytes: run trt-track detect {clip} anew" in str(refused.value)


def test_what_is_not_told_is_not_compared(clip):
    check_same_clip({"width": 96, "height": 64}, info_of(clip), whose="found.jsonl")
    held = HeldClip.of_pictures([np.zeros((64, 96, 3), np.uint8)] * 6, size=32)
    check_same_clip(clip_facts(info_of(clip)), held.info, whose="found.jsonl")
