"""`trt-track doctor`: what is installed, which backends work and why the others do not."""

from __future__ import annotations

from importlib import metadata
from typing import Final

_PACKAGES: Final = (
    ("trt-track", ""),
    ("numpy", ""),
    ("av", ""),
    ("onnxruntime", ""),
    ("onnxruntime-gpu", ""),
    ("torch", "export"),
    ("sam2", "export"),
    ("onnx", "export"),
    ("onnxscript", "export"),
    ("tensorrt-rtx-cu13", "rtx"),
    ("tensorrt-cu13", "tensorrt"),
    ("cuda-core", "rtx"),
)


def doctor() -> None:
    """Tell what is installed, which backends work here and why the others do not."""
    import platform

    from rich.console import Console
    from rich.table import Table

    from trt_track.engines.backends import available_backends
    from trt_track.engines.library import library_folder
    from trt_track.engines.onnxruntime_session import default_threads

    console = Console(width=140, highlight=False, markup=False)
    console.print(
        f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, {default_threads()} cores for this process"
    )
    console.print(_packages())
    backends = Table("backend", "works", "version", "why", box=None, pad_edge=False)
    for status in available_backends():
        backends.add_row(status.name, "yes" if status.usable else "no", status.version or "-", status.reason)
    console.print(backends)
    bundles = sorted(path.parent for path in library_folder().glob("*/manifest.json"))
    console.print(f"library: {library_folder()}, {len(bundles)} bundles")
    for bundle in bundles:
        console.print(f"  {bundle.name}")


def _packages() -> object:
    from rich.table import Table

    table = Table("package", "version", box=None, pad_edge=False)
    for package, extra in _PACKAGES:
        try:
            table.add_row(package, metadata.version(package))
        except metadata.PackageNotFoundError:
            table.add_row(package, f"missing (pip install 'trt-track[{extra}]')" if extra else "missing")
    return table
