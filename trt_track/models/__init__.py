"""The models that the package carries, a tracker and a text detector: bundles for the CPU, weights and configurations."""

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

GROUNDING_DINO_PICO: Final = Path(__file__).parent / "grounding-dino-pico"
"""Folder of the text detector, as transformers loads it: `config.json`, `model.safetensors` in half precision, `tokenizer.json`."""
GROUNDING_DINO_PICO_BUNDLE: Final = GROUNDING_DINO_PICO / "bundle"
"""Its exported graphs, FP32."""
