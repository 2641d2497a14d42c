"""Results out: the folder of one run, written in a thread beside the tracking loop."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Collection, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Protocol, Self

from trt_track.errors import OutputError
from trt_track.runtime.channel import Channel
from trt_track.runtime.jsonl import JsonlWriter
from trt_track.runtime.mask_images import MaskImageWriter
from trt_track.runtime.output_file import output_errors, write_whole
from trt_track.runtime.overlay import OverlayStyle
from trt_track.runtime.overlay_video import OverlayVideoWriter
from trt_track.runtime.results import FrameResult

KINDS: Final = ("video", "jsonl", "png")

_QUEUE_RESULTS: Final = 4
_FINISHED: Final = "run.json"
_UNFINISHED: Final = "run.unfinished"
_VIDEO: Final = "tracked.mp4"
_TRACKS: Final = "tracks.jsonl"
_MASKS: Final = "masks"
_MASK_FILE: Final = re.compile(r"[0-9]{5,}\.png")


class Writer(Protocol):
    """Writes results to one file or folder."""

    def write(self, result: FrameResult) -> None:
        """Write one result."""

    def close(self) -> None:
        """Finish the file."""


class RunFolder:
    """Writes `tracked.mp4`, `tracks.jsonl` and `masks/*.png` as results come, and `run.json` when the run has finished.

    Nothing is created before the first result. Until `finish` the folder holds `run.unfinished`; such a folder is replaced by the next
    run, a finished one only with `overwrite`. Only files of these names are ever removed, and only from a folder that a run has written.
    """

    def __init__(
        self,
        out: str | Path,
        *,
        frame_rate: Fraction,
        save: Collection[str] = KINDS,
        overwrite: bool = False,
        style: OverlayStyle | None = None,
    ) -> None:
        """Check the folder; nothing is written yet.

        Args:
            out: the run's folder; it and its parents are created with the first result.
            frame_rate: of the clip, for the overlay video.
            save: any of `video`, `jsonl`, `png`.
            overwrite: replace a finished run.
            style: how the overlay video looks.

        Raises:
            OutputError: the folder holds a finished run or other files of our names, or cannot be written; or `save` has other words.
        """
        self.path = Path(out)
        unknown = sorted(set(save) - set(KINDS))
        if unknown:
            raise OutputError(f"cannot save {', '.join(unknown)}: choose from {', '.join(KINDS)}")
        _check_folder(self.path, overwrite=overwrite)
        self._save = frozenset(save)
        self._frame_rate, self._style = frame_rate, style
        self._results: Channel[FrameResult] = Channel(_QUEUE_RESULTS)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.frames_written = 0

    def write(self, result: FrameResult) -> None:
        """Hand a result to the writing thread; waits while 4 results are ahead. The result's arrays must not change any more.

        Raises:
            OutputError: this or an earlier result could not be written.
        """
        if self._thread is None:
            with output_errors(self.path):
                self._prepare()
            self._thread = threading.Thread(target=self._work, name="trt-track-writer", daemon=True)
            self._thread.start()
        if not self._results.put(result):
            self._stop()
            self._raise_error()

    def finish(self, run: Mapping[str, Any]) -> None:
        """Write what is queued, close all files, then write `run.json`: the run has finished.

        Args:
            run: JSON values: settings, versions, hashes, timings.

        Raises:
            OutputError: something could not be written.
        """
        self.close()
        content = json.dumps({**run, "frames_written": self.frames_written}, indent=2, ensure_ascii=False) + "\n"
        with output_errors(self.path / _FINISHED):
            if self._thread is None:  # asked for, though there was no result
                self._prepare()
            write_whole(self.path / _FINISHED, content.encode())
            (self.path / _UNFINISHED).unlink(missing_ok=True)

    def close(self) -> None:
        """Write what is queued and close all files; without `finish` the run stays unfinished.

        Raises:
            OutputError: something could not be written.
        """
        self._stop()
        self._raise_error()

    def _prepare(self) -> None:
        """Create the folder, mark it as unfinished and remove what an earlier run left."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / _UNFINISHED).touch()
        (self.path / _FINISHED).unlink(missing_ok=True)
        for file in _run_files(self.path):
            file.unlink()

    def _stop(self) -> None:
        self._results.finish()
        if self._thread is not None:
            self._thread.join()

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _writers(self) -> list[Writer]:
        makers: dict[str, Writer] = {
            "jsonl": JsonlWriter(self.path / _TRACKS),
            "png": MaskImageWriter(self.path / _MASKS),
            "video": OverlayVideoWriter(self.path / _VIDEO, frame_rate=self._frame_rate, style=self._style),
        }
        return [writer for kind, writer in makers.items() if kind in self._save]

    def _work(self) -> None:
        """Write results until the last; the first error ends it, is kept for the producer, and the files are closed all the same."""
        writers = self._writers()
        try:
            for result in self._results:
                for writer in writers:
                    writer.write(result)
                self.frames_written += 1
        except BaseException as error:
            self._error = error
        for writer in writers:
            try:
                writer.close()
            except BaseException as error:
                self._error = self._error or error
        self._results.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._stop()
        if error is None:
            self._raise_error()


def _check_folder(folder: Path, *, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file, not a folder: choose another --out")
    if (folder / _FINISHED).exists():
        if not overwrite:
            raise OutputError(f"{folder}: holds a finished run: choose another folder, or allow to overwrite it")
    elif not (folder / _UNFINISHED).exists():
        foreign = next(iter(_run_files(folder)), None)
        if foreign is not None:
            raise OutputError(f"{folder}: holds {foreign.relative_to(folder)}, which no run of this program wrote: choose another folder")
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"{existing}: no permission to write here: choose another folder")


def _run_files(folder: Path) -> list[Path]:
    """Return the files of a run that are there, and no others."""
    masks = folder / _MASKS
    images = [file for file in masks.iterdir() if _MASK_FILE.fullmatch(file.name)] if masks.is_dir() else []
    return [file for file in (folder / _TRACKS, folder / _VIDEO) if file.exists()] + sorted(images)
