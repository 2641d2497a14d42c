"""The model that the package carries: a bundle for the CPU, its weights and its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Final

PICO: Final = Path(__file__).parent / "pico"
"""Folder of `pico`."""
PICO_CONFIG: Final = PICO / "pico.yaml"
"""Its configuration in upstream's YAML form."""
PICO_WEIGHTS: Final = PICO / "pico.safetensors"
"""Its weights in half precision."""
PICO_BUNDLE: Final = PICO / "bundle"
"""Its exported graphs, FP32."""
