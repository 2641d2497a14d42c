"""How much memory well-known GPUs have, for plans that are made elsewhere."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Final

from trt_track.engines.device_memory import Gpu
from trt_track.errors import BackendError

SYSTEM_SHARE: Final = 0.075
"""Of a GPU's memory that is taken before trt-track starts: 5 to 10 %, by the driver, a desktop, a browser."""
_GIB: Final = 1 << 30
_GPUS: Final[dict[str, tuple[float, int]]] = {
    "RTX 2060": (6, 75),
    "RTX 2070": (8, 75),
    "RTX 2080": (8, 75),
    "RTX 2080 Ti": (11, 75),
    "T4": (15, 75),
    "RTX 3050": (8, 86),
    "RTX 3060": (12, 86),
    "RTX 3060 Ti": (8, 86),
    "RTX 3070": (8, 86),
    "RTX 3080": (10, 86),
    "RTX 3090": (24, 86),
    "RTX A4000": (16, 86),
    "RTX A6000": (48, 86),
    "A10": (22.5, 86),
    "A10G": (22.5, 86),
    "A40": (45, 86),
    "A100 40GB": (40, 80),
    "A100 80GB": (80, 80),
    "RTX 4060": (8, 89),
    "RTX 4060 Ti": (8, 89),
    "RTX 4060 Ti 16GB": (16, 89),
    "RTX 4070": (12, 89),
    "RTX 4070 Ti": (12, 89),
    "RTX 4070 Ti Super": (16, 89),
    "RTX 4080": (16, 89),
    "RTX 4090": (24, 89),
    "L4": (22.5, 89),
    "L40S": (45, 89),
    "H100 80GB": (80, 90),
    "RTX 5060": (8, 120),
    "RTX 5060 Ti": (8, 120),
    "RTX 5060 Ti 16GB": (16, 120),
    "RTX 5070": (12, 120),
    "RTX 5070 Ti": (16, 120),
    "RTX 5080": (16, 120),
    "RTX 5090": (32, 120),
}
"""GiB that can be used, which with ECC is less than what the name says, and the compute capability times ten."""
_ALIASES: Final = {"a100": "A100 40GB", "h100": "H100 80GB"}
_MAKERS: Final = ("nvidia", "geforce", "tesla")


def known_gpu(name: str) -> Gpu:
    """Return a GPU by its name, with or without "NVIDIA GeForce", in any case; free is what the system leaves.

    Raises:
        BackendError: it is not in the table.
    """
    known = {_key(one): one for one in _GPUS}
    key = _key(_ALIASES.get(_key(name), name))
    if key not in known:
        close = [known[one] for one in get_close_matches(key, known, n=4)] or list(_GPUS)
        raise BackendError(
            f"GPU {name!r} is not in the table: say how much of its memory is free, --vram 8GiB, or choose from {', '.join(close)}"
        )
    gib, sm = _GPUS[known[key]]
    total = int(gib * _GIB)
    return Gpu(known[key], sm, int(total * (1 - SYSTEM_SHARE)), total)


def _key(name: str) -> str:
    words = name.lower().replace("-", " ").replace("_", " ").split()
    return "".join(word for word in words if word not in _MAKERS)
