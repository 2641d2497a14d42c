"""The official SAM 2 models: which configuration and which checkpoint belong to a name."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from trt_track.errors import ModelError

_HOST: Final = "https://dl.fbaipublicfiles.com/segment_anything_2"

# SHA-256 of all eight files: computational-cell-analytics/micro-sam, micro_sam/v2/util.py at 4f6cca85a2e9ca9e25ec4df0eab4e239f9a48fcc.
# The bytes are the files' Content-Length; they are for people and checks of consistency, nothing is trusted because of its size.


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """One official model and its checkpoint."""

    name: str
    """What users type, e.g. `sam2.1-hiera-tiny`."""
    config: str
    """Configuration file inside the `sam2` package."""
    url: str
    """Where the checkpoint is published."""
    sha256: str | None
    """SHA-256 of the checkpoint in lower-case hex, None where no trustworthy source states it."""
    size_bytes: int | None
    """Size of the checkpoint, None where it is not known."""
    parameters: int
    """Number of trainable weights."""
    licence: str = "Apache-2.0"
    """Licence of code and weights."""

    @property
    def file_name(self) -> str:
        """Name of the checkpoint file, upstream's own."""
        return self.url.rpartition("/")[2]


def _model(version: str, size: str, letter: str, *, sha256: str | None, numbers: tuple[int | None, int]) -> CatalogueModel:
    """Spell out one model; `numbers` are the checkpoint's bytes and the model's parameters."""
    family, folder = {"2.0": ("sam2", "072824"), "2.1": ("sam2.1", "092824")}[version]
    return CatalogueModel(
        name=f"{family}-hiera-{size}",
        config=f"configs/{family}/{family}_hiera_{letter}.yaml",
        url=f"{_HOST}/{folder}/{family}_hiera_{size.replace('-', '_')}.pt",
        sha256=sha256,
        size_bytes=numbers[0],
        parameters=numbers[1],
    )


_MODELS: Final = (
    _model(
        "2.1",
        "tiny",
        "t",
        sha256="7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
        numbers=(156_008_466, 38_962_498),
    ),
    _model(
        "2.1",
        "small",
        "s",
        sha256="6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
        numbers=(184_416_285, 46_060_354),
    ),
    _model(
        "2.1",
        "base-plus",
        "b+",
        sha256="a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
        numbers=(323_606_802, 80_850_178),
    ),
    _model(
        "2.1",
        "large",
        "l",
        sha256="2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
        numbers=(898_083_611, 224_446_642),
    ),
    _model(
        "2.0",
        "tiny",
        "t",
        sha256="65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125",
        numbers=(155_906_050, 38_945_986),
    ),
    _model(
        "2.0",
        "small",
        "s",
        sha256="95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3",
        numbers=(184_309_650, 46_043_842),
    ),
    _model(
        "2.0",
        "base-plus",
        "b+",
        sha256="d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071",
        numbers=(323_493_298, 80_833_666),
    ),
    _model(
        "2.0",
        "large",
        "l",
        sha256="7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b",
        numbers=(897_952_466, 224_430_130),
    ),
)

CATALOGUE: Final = {model.name: model for model in _MODELS}
"""All official models by name, the better family (2.1) first."""


def find_model(name: str) -> CatalogueModel:
    """Return the official model called `name`.

    Raises:
        ModelError: there is no such model; the message names the closest ones, or all.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    close = get_close_matches(name.lower().replace("_", "-"), CATALOGUE, n=2)
    known = f"did you mean {' or '.join(close)}?" if close else f"the models are {', '.join(CATALOGUE)}"
    raise ModelError(f"no model is called {name!r}: {known}")
