"""The JSON file that carries a benchmark's figures together with the machine and the command that made them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from trt_track.bench.machine import machine_facts

_QUIET_LOAD: Final = 0.5
"""Load above which somebody else is at work."""


class Report:
    """A result file. Every `write` replaces it as a whole, so that it can be written again as figures come."""

    def __init__(self, path: Path, command: str) -> None:
        """Look at the machine now, before the benchmark loads it.

        Args:
            path: of the file; its folder is made when it is written.
            command: what made the figures, as one line for a shell.
        """
        self.path = path
        self.head: dict[str, Any] = {"command": command, "machine": machine_facts()}

    @property
    def warning(self) -> str | None:
        """Why the figures are not worth keeping, or None."""
        load = self.head["machine"]["load_1_min"]
        return f"the load is {load}: these figures are not worth keeping" if load > _QUIET_LOAD else None

    def write(self, figures: dict[str, Any]) -> None:
        """Write the figures behind the command and the machine.

        Raises:
            OSError: the file cannot be written; the one that was there before stays.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f".{self.path.name}.part")
        draft.write_text(json.dumps({**self.head, **figures}, indent=1) + "\n", encoding="utf-8")
        draft.replace(self.path)
