"""Running the command line, and what came of it."""

import subprocess
import sys
from dataclasses import dataclass


def run_process(*arguments: object, **options) -> subprocess.CompletedProcess:
    """Run the command line in a process of its own; an export takes minutes where other work has the cores."""
    command = [sys.executable, "-m", "trt_track", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=900, **options)


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The message, which must be the last line on stderr and the only error there; exit code 2 goes with it."""
        lines = self.err.splitlines()
        assert self.code == 2, self
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:], self
        assert "Traceback" not in self.err
        return lines[-1].removeprefix("error: ")
