"""The clips of `trt-track parity`: how much of them is used, and what they are prompted with."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from trt_track.errors import ModelError, PromptError

if TYPE_CHECKING:
    from trt_track.parity.cases import Case
    from trt_track.parity.first_frames import FirstFrames
    from trt_track.runtime.held_clip import HeldClip
    from trt_track.runtime.prompts import Prompt

CASE_FRAMES: Final = 26
"""Frames of a clip that the cases are compared on, where no number is given."""
DRIFT_FRAMES: Final = 200
"""Frames of a clip that a drift run takes, where no number is given."""

PromptFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--prompts",
        help="Prompts of the clips from a JSON file; repeatable, then one for each clip in their order. Default: a box and a click.",
    ),
]


@dataclass(frozen=True, slots=True)
class ClipOptions:
    """What the user said of clips."""

    clips: tuple[Path, ...]
    frames: int | None
    prompts: tuple[tuple[Prompt, ...], ...]
    """One set for all clips, or one for each in their order; none: a box and a click."""
    cases: bool
    """Whether the cases are compared, on the first clip."""
    only: tuple[str, ...]
    """Words of which a case's name must have one; none for all cases."""

    def open(self, clip: Path) -> FirstFrames:
        """Open a clip as far as it is used.

        Raises:
            VideoError: it cannot be read.
        """
        from trt_track.parity.first_frames import FirstFrames
        from trt_track.runtime.video import open_video

        return FirstFrames(open_video(clip), self.frames or DRIFT_FRAMES)

    def prompts_for(self, clip: Path, source: FirstFrames | HeldClip) -> list[Prompt]:
        """Return what a clip is prompted with.

        Args:
            clip: one of `clips`.
            source: the same, open.

        Raises:
            PromptError: it makes no sense for this clip.
        """
        from trt_track.parity.cases import default_prompts
        from trt_track.runtime.prompts import check_prompts, merge_prompts

        info = source.info
        asked = self.prompts[min(self.clips.index(clip), len(self.prompts) - 1)] if self.prompts else ()
        prompts = merge_prompts(asked) if asked else default_prompts(info.width, info.height)
        check_prompts(prompts, width=info.width, height=info.height, frame_count=info.frame_count)
        return prompts

    def title(self, clip: Path) -> str:
        """Return what a clip is called: its name, or its path where several have that name."""
        return clip.name if [other.name for other in self.clips].count(clip.name) == 1 else str(clip)

    def check(self) -> None:
        """Read what is wrong with clips and prompts now, not after an hour.

        Raises:
            VideoError: a clip cannot be read.
            PromptError: a prompt makes no sense for one of them.
        """
        for clip in self.clips:
            with closing(self.open(clip)) as source:
                self.prompts_for(clip, source)

    def plan(self, size: int) -> tuple[HeldClip, list[Case]] | None:
        """Read the first clip and choose the cases; None without a clip or without cases.

        Raises:
            ModelError: the clip is too short, or no case has such a name.
        """
        from trt_track.parity.cases import MIN_FRAMES, all_cases
        from trt_track.runtime.held_clip import HeldClip

        if not (self.clips and self.cases):
            return None
        held = HeldClip.read(self.clips[0], size=size, frames=self.frames or CASE_FRAMES)
        if held.info.frame_count < MIN_FRAMES:
            raise ModelError(
                f"{self.clips[0]} has {held.info.frame_count} frames: the cases need at least {MIN_FRAMES}; leave them out with --no-cases"
            )
        cases = all_cases(held.info.frame_count, held.info.width, held.info.height)
        chosen = [one for one in cases if not self.only or any(word in one.name for word in self.only)]
        if not chosen:
            raise ModelError(f"no such case: choose from {', '.join(one.name for one in cases)}")
        return held, chosen


def read_prompts_of_clips(
    given: tuple[list[str] | None, list[str] | None, list[str] | None], files: list[Path] | None, *, clips: int
) -> tuple[tuple[Prompt, ...], ...]:
    """Read the prompts of drift runs: one set for all clips, or one for each; none for the default ones.

    Args:
        given: boxes, clicks and masks, for all clips.
        files: of prompts, one for all clips or one for each in their order.
        clips: how many there are.

    Raises:
        PromptError: one cannot be read, there is no clip to prompt, or there are more or fewer files than clips.
    """
    from trt_track.cli.run_command import read_all_prompts

    if not (any(given) or files):
        return ()
    if not clips:
        raise PromptError("prompts need a clip to be tracked: give one with --clip FILE")
    if files and len(files) not in {1, clips}:
        raise PromptError(f"{len(files)} files of --prompts for {clips} clips: give one for all of them, or one for each in their order")
    every: list[Path] | list[None] = files or [None]
    return tuple(tuple(read_all_prompts(*given, file)) for file in every)
