"""A recipe of precision: what each network computes in, which operators are quantised, and which layers are left out, and why.

Low precision fails in SAM 2 by compounding: an error in a memory is read again by every later frame. So there is no single switch. The
shipped recipes lie in `recipes/` as TOML, and a file of the same form is taken wherever the name of one is.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, Self

from trt_track.errors import ModelError
from trt_track.specs import PRECISIONS

FLOATS: Final = ("float32", "float16", "bfloat16")
QUANTIZABLE: Final = ("Conv", "Gemm", "MatMul")
"""ONNX operators that may have Q/DQ at their inputs."""
NETWORKS: Final = ("image_encoder", "memory_attention", "mask_decoder", "memory_encoder", "backbone")
"""What a recipe speaks of: four graphs of SAM 2 and the backbone of a Grounding DINO. All else computes in float32: `mask_prompt` and
`mask_upscale` only resize and compare, and Grounding DINO loses its boxes otherwise."""
_FOLDER: Final = Path(__file__).parent / "recipes"
RECIPE_NAME: Final = "[a-z][a-z0-9_]*"
"""Pattern of what a recipe may be called."""


@dataclass(frozen=True, slots=True)
class NetworkPrecision:
    """What one network computes in."""

    dtype: str = "float32"
    """One of `FLOATS`."""
    quantize: tuple[str, ...] = ()
    """Of `QUANTIZABLE`, the operators whose inputs are rounded to INT8; the rest is in `dtype`."""
    wide_stream: bool = False
    """Whether the features between the products, to which each layer adds, with norms and position codes, stay in float32."""

    @property
    def stream(self) -> str:
        """The dtype of the features between the products."""
        return "float32" if self.wide_stream else self.dtype

    @property
    def told(self) -> str:
        """What a manifest says: the dtype, or "int8" where operators are quantised."""
        return "int8" if self.quantize else self.dtype


@dataclass(frozen=True, slots=True)
class CarefulLayers:
    """Layers of one network that are treated with more care than the rest."""

    network: str
    layers: tuple[str, ...]
    """Names of layers as they stand in the graph, such as `trunk.stages.0.*`; `*` stands for anything."""
    dtype: str
    """What they compute in, unquantised."""
    reason: str

    def covers(self, network: str, layer: str) -> bool:
        """Tell whether a layer of a network is one of them."""
        return network == self.network and any(fnmatchcase(layer, pattern) for pattern in self.layers)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe. Checked on construction.

    Raises:
        ModelError: an unknown network, dtype or operator, or an exception that says nothing.
    """

    name: str
    about: str = ""
    networks: Mapping[str, NetworkPrecision] = field(default_factory=dict)
    """By name; what is not named computes in float32."""
    exceptions: tuple[CarefulLayers, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(RECIPE_NAME, self.name):
            raise ModelError(f"recipe {self.name!r}: a name is lower-case letters, digits and _")
        for network, precision in self.networks.items():
            self._one_of("network", network, NETWORKS)
            self._one_of(f"dtype of {network}", precision.dtype, FLOATS)
            if precision.quantize and precision.dtype == "bfloat16":
                raise ModelError(f"recipe {self.name}: {network} cannot be quantised in bfloat16; choose float16, or float32 for a CPU")
            for operator in precision.quantize:
                self._one_of(f"operator to quantise in {network}", operator, QUANTIZABLE)
        for one in self.exceptions:
            self._one_of("network of an exception", one.network, NETWORKS)
            self._one_of(f"dtype of an exception in {one.network}", one.dtype, ("float32", self.of(one.network).dtype))
            if not (one.layers and one.reason.strip()):
                raise ModelError(f"recipe {self.name}: an exception in {one.network} must name its layers and a reason")

    def _one_of(self, what: str, value: str, known: tuple[str, ...]) -> None:
        if value not in known:
            raise ModelError(f"recipe {self.name}: {what} is {value!r}; choose from {', '.join(dict.fromkeys(known))}")

    def of(self, network: str) -> NetworkPrecision:
        """Return what a network computes in."""
        return self.networks.get(network, NetworkPrecision())

    @property
    def features(self) -> str:
        """The dtype of the features of a frame, which the image encoder gives to all others."""
        return self.of("image_encoder").stream

    @property
    def memory(self) -> str:
        """The dtype of memories."""
        return self.of("memory_attention").dtype

    def own_layers(self, network: str) -> list[CarefulLayers]:
        """Return the exceptions of a network that compute in another dtype than the rest of it."""
        return [one for one in self.exceptions if one.network == network and one.dtype != self.of(network).dtype]

    def quantizes(self, network: str, layer: str) -> bool:
        """Tell whether the operators of a layer are quantised."""
        return not any(one.covers(network, layer) for one in self.exceptions)

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as JSON values, in the form of its file."""
        networks = {name: dict(_told(one)) if one.quantize or one.wide_stream else one.dtype for name, one in self.networks.items()}
        told = [{"network": e.network, "layers": list(e.layers), "dtype": e.dtype, "reason": e.reason} for e in self.exceptions]
        return {"name": self.name, "about": self.about, "networks": networks, "exceptions": told}

    def to_toml(self) -> str:
        """Return the recipe as the content of its file."""
        lines = [f"name = {_quoted(self.name)}", f"about = {_quoted(self.about)}", "", "[networks]"]
        for name, one in self.networks.items():
            table = ", ".join(f"{key} = {json.dumps(value)}" for key, value in _told(one))
            lines.append(f"{name} = {{ {table} }}" if one.quantize or one.wide_stream else f"{name} = {_quoted(one.dtype)}")
        for e in self.exceptions:
            lines += ["", "[[exceptions]]", f"network = {_quoted(e.network)}", f"layers = [{', '.join(map(_quoted, e.layers))}]"]
            lines += [f"dtype = {_quoted(e.dtype)}", f"reason = {_quoted(e.reason)}"]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote, or the content of a file.

        Raises:
            ModelError: it is no recipe.
        """
        name = str(data.get("name", "?"))
        _only(name, "recipe", data, {"name", "about", "networks", "exceptions"})
        try:
            networks = {str(network): _network(name, network, value) for network, value in data.get("networks", {}).items()}
            exceptions = tuple(_exception(name, one) for one in data.get("exceptions", []))
        except (KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"recipe {name}: malformed ({type(error).__name__}: {error})") from error
        return cls(name, str(data.get("about", "")), networks, exceptions)

    @classmethod
    def read(cls, wanted: str | Path) -> Self:
        """Return a shipped recipe by its name, or read a TOML file.

        Raises:
            ModelError: there is no such name or file, or it is no recipe.
        """
        path = _FOLDER / f"{wanted}.toml" if wanted in PRECISIONS else Path(wanted)
        if path.suffix != ".toml":
            raise ModelError(f"precision {str(wanted)!r} is unknown: choose one of {', '.join(PRECISIONS)}, or name a recipe's .toml file")
        try:
            found = cls.from_json(tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise ModelError(f"recipe {path} cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ModelError(f"recipe {path} is no TOML: {error}") from error
        if wanted not in PRECISIONS and found.name in PRECISIONS:
            raise ModelError(f"recipe {path}: the name {found.name} is that of a shipped recipe; give yours another")
        return found


def recipe_rank(name: str) -> int:
    """Return the place of a recipe among the shipped ones, the most exact first; a user's own comes after them."""
    return PRECISIONS.index(name) if name in PRECISIONS else len(PRECISIONS)


def _quoted(text: str) -> str:
    """Return a string of TOML: JSON's form is one."""
    return json.dumps(text, ensure_ascii=False)


def _told(one: NetworkPrecision) -> Iterator[tuple[str, Any]]:
    """Yield what a recipe's file says of a network that has more than a dtype."""
    yield "dtype", one.dtype
    if one.quantize:
        yield "quantize", list(one.quantize)
    if one.wide_stream:
        yield "stream", "float32"


def _only(name: str, what: str, data: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(data) - known):
        raise ModelError(f"recipe {name}: {what} has {unknown[0]!r}; it takes {', '.join(sorted(known))}")


def _network(name: str, network: str, value: Any) -> NetworkPrecision:
    if isinstance(value, str):
        return NetworkPrecision(value)
    _only(name, network, value, {"dtype", "quantize", "stream"})
    dtype = str(value["dtype"])
    stream = str(value.get("stream", dtype))
    if stream not in {"float32", dtype}:
        raise ModelError(f"recipe {name}: stream of {network} is {stream!r}; choose from float32, {dtype}")
    return NetworkPrecision(dtype, tuple(map(str, value.get("quantize", ()))), wide_stream=stream != dtype)


def _exception(name: str, data: Mapping[str, Any]) -> CarefulLayers:
    _only(name, "an exception", data, {"network", "layers", "dtype", "reason"})
    if isinstance(data["layers"], str):
        raise TypeError("layers is a list")
    return CarefulLayers(str(data["network"]), tuple(map(str, data["layers"])), str(data["dtype"]), str(data["reason"]))
