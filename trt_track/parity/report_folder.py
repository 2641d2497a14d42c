"""The folder of a report: `report.json`, `report.md`, `report.html`, a line of `frames.jsonl` for each mask as it is compared, `worst/`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Final

from trt_track.parity.clip_drift import ClipDrift
from trt_track.parity.drift import DriftRow
from trt_track.parity.report import Report
from trt_track.parity.report_markdown import write_markdown
from trt_track.parity.report_page import write_page
from trt_track.runtime.output_file import output_errors, write_whole

_JSON: Final = "report.json"


class ReportFolder:
    """Writes a report, again and again while it grows, so that what was found is there whenever the run ends."""

    def __init__(self, path: Path) -> None:
        """Make the folder; the pictures and lines of an earlier report in it are removed.

        Raises:
            OutputError: it cannot be written.
        """
        self.path, self._lines, self._worst = path, path / "frames.jsonl", path / "worst"
        with output_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            if (path / _JSON).is_file():
                for old in self._worst.glob("*.png"):
                    old.unlink()
            self._lines.write_bytes(b"")

    def add_rows(self, clip: str, against: str, rows: Iterable[DriftRow]) -> None:
        """Append what was compared on one frame.

        Raises:
            OutputError: it cannot be written.
        """
        lines = "".join(f"{json.dumps({'clip': clip, 'against': against, **asdict(row)})}\n" for row in rows)
        with output_errors(self._lines), self._lines.open("a", encoding="utf-8") as file:
            file.write(lines)

    def add_pictures(self, drift: ClipDrift) -> None:
        """Write the worst frames of a clip.

        Raises:
            OutputError: they cannot be written.
        """
        with output_errors(self._worst):
            self._worst.mkdir(exist_ok=True)
            for worst in drift.worst:
                name = f"{drift.clip}-{drift.against}-object{worst.row.object_id}-frame{worst.row.frame}"
                (self._worst / f"{re.sub('[^A-Za-z0-9.-]+', '_', name)}.png").write_bytes(worst.png())

    def write(self, report: Report) -> None:
        """Write all three forms of the report.

        Raises:
            OutputError: one cannot be written.
        """
        forms = {
            _JSON: json.dumps(report.to_json(), indent=1) + "\n",
            "report.md": write_markdown(report),
            "report.html": write_page(report),
        }
        for name, text in forms.items():
            with output_errors(self.path / name):
                write_whole(self.path / name, text.encode())
