"""Where the scripts put their figures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from trt_track.bench.report import Report

RESULTS: Final = Path(__file__).parent / "results"


def open_report(name: str, path: Path | None = None) -> Report:
    """Return the result file of a script, and warn where the machine is busy.

    Args:
        name: of the file in `benchmarks/results/`, without suffix.
        path: where to write instead.
    """
    report = Report(path or RESULTS / f"{name}.json", " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]))
    if report.warning:
        print(f"warning: {report.warning}", file=sys.stderr)
    return report
