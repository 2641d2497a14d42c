"""By what a clip is known: its pixels, its frames, its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trt_track.errors import PromptError
from trt_track.runtime.frames import VideoInfo
from trt_track.runtime.image_folder import frame_files


def clip_facts(info: VideoInfo) -> dict[str, Any]:
    """Return them as JSON values, with the clip's name and the time of its last change, as `make` knows files."""
    return {"name": info.path.name, "width": info.width, "height": info.height, "frames": info.frame_count, **_file_facts(info.path)}


def check_same_clip(facts: Mapping[str, Any], info: VideoInfo, *, whose: str) -> None:
    """Refuse what was made of another clip; a copy of it under another name is the same one.

    Args:
        facts: what `clip_facts` returned then; without frames or bytes these are not compared.
        info: the clip now.
        whose: what the message calls that which was made.

    Raises:
        PromptError: its pixels, frames or bytes are others.
    """
    own = clip_facts(info)
    counted = [name for name in ("frames", "bytes") if name in facts and name in own]
    if any(facts.get(name) != own[name] for name in ("width", "height", *counted)):
        raise PromptError(
            f"{whose} is of another clip, of {_told(facts)}; {info.path} has {_told(own)}: run trt-track detect {info.path} anew"
        )


def _told(facts: Mapping[str, Any]) -> str:
    counts = [f"{facts[name]} {name}" for name in ("frames", "bytes") if name in facts]
    return ", ".join([f"{facts.get('width')}x{facts.get('height')} pixels", *counts])


def _file_facts(path: Path) -> dict[str, int]:
    """Return size and time of a file, or of the frames of a folder all together; nothing for frames that are not from a file."""
    files = frame_files(path) if path.is_dir() else [path]
    facts = [file.stat() for file in files if file.is_file()]
    if not facts:
        return {}
    return {"bytes": sum(fact.st_size for fact in facts), "changed_ns": max(fact.st_mtime_ns for fact in facts)}
