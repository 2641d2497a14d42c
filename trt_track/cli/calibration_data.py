"""What a quantised network is calibrated with: pictures and clips of the user, or photographs that scikit-image carries."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trt_track.cli.package_file import package_file
from trt_track.errors import ModelError, VideoError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from trt_track.export.calibration import Calibration
    from trt_track.recipe import Recipe
    from trt_track.specs import GraphSpec, ModelSpec

PHOTOGRAPHS: Final = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
_PICTURES: Final = (".jpg", ".jpeg", ".png")

Specs = Mapping[str, tuple["GraphSpec", Path]]
"""Contract and ONNX file of every graph."""


@dataclass(frozen=True, slots=True)
class CalibrationData:
    """What the user said of calibration."""

    source: Path | None = None
    """A clip, or a folder of pictures or clips; None for photographs of scikit-image, whole and in quarters."""
    method: str = "percentile"
    """One of `calibration.METHODS`."""
    frames: int = 32
    """Pictures at most, spread evenly."""

    def told(self, recipe: Recipe) -> str:
        """Return what the manifest says of it; nothing for a recipe that quantises nothing."""
        if not any(one.quantize for one in recipe.networks.values()):
            return ""
        return (
            f"{self.method}, {'photographs of scikit-image' if self.source is None else self.source.name}, {self.frames} pictures at most"
        )

    def of_frames(self, frame_hw: tuple[int, int], **others: np.ndarray[Any, Any]) -> Calibration:
        """Return what a graph is calibrated with that takes frames of one size, and `others` that are the same for all of them.

        Raises:
            ModelError: there are no pictures, or the method is unknown.
            VideoError: a picture or clip cannot be read.
        """
        import numpy as np

        from trt_track.export.calibration import Calibration

        height, width = frame_hw
        frames = [np.asarray(picture.resize((width, height))) for picture in self._pictures()]
        return Calibration([{"frames": frame[None], **others} for frame in frames], self.method)

    def of_tracking(self, graphs: Specs, model: ModelSpec, networks: Collection[str]) -> dict[str, Calibration]:
        """Track what a box around the middle of the clip holds and return what each network was given on the way.

        Raises:
            ModelError: there is no clip to track through.
            VideoError: it cannot be read.
        """
        from trt_track.export.calibration import Calibration
        from trt_track.runtime.held_clip import HeldClip
        from trt_track.runtime.tracker import Tracker, Video

        if self.source is None:
            raise ModelError(f"to quantise {', '.join(networks)}, a clip to track through is needed: --calibrate CLIP")
        clip = HeldClip.read(self.source, size=model.image_size, frames=self.frames)
        session = _recording_session(graphs, networks)
        with Tracker(session, model, max_objects=1) as tracker:
            video = Video(tracker, clip)
            width, height = clip.info.width, clip.info.height
            video.add(frame=0, object_id=1, box=(width / 4, height / 4, width * 3 / 4, height * 3 / 4))
            for _ in video.propagate():
                pass
        return {network: Calibration(session.seen[network], self.method) for network in networks}

    def _pictures(self) -> list[Image]:
        if self.source is None:
            return list(_photographs())[: self.frames]
        return [picture for file, count in _spread(_files(self.source), self.frames) for picture in _read(file, count)]


def _photographs() -> Iterator[Image]:
    """Yield the carried photographs, then quarters of them: things of another size.

    Raises:
        ModelError: scikit-image is not installed.
    """
    from PIL import Image

    paths = [package_file("skimage", f"data/{name}") for name in PHOTOGRAPHS]
    pictures = [Image.open(path).convert("RGB") for path in paths if path is not None]
    if not pictures:
        raise ModelError("scikit-image is missing: pip install 'trt-track[export]', or name pictures of your own with --calibrate")
    yield from pictures
    for picture in pictures:
        across, down = picture.width // 2, picture.height // 2
        for left, top in ((0, 0), (across, 0), (0, down), (across, down)):
            yield picture.crop((left, top, left + across, top + down))


def _files(source: Path) -> list[Path]:
    """Return the clip itself, or the pictures and clips of a folder."""
    if not source.is_dir():
        return [source]
    files = sorted(file for file in source.iterdir() if file.is_file() and not file.name.startswith("."))
    if not files:
        raise ModelError(f"--calibrate {source}: the folder is empty; expected pictures or clips")
    return files


def _spread(files: Sequence[Path], pictures: int) -> Iterator[tuple[Path, int]]:
    """Yield as many of the files as pictures are wanted, evenly spread, each with how many of the pictures it gives."""
    for number, file in enumerate(files):
        before, after = (-(-place * pictures // len(files)) for place in (number, number + 1))
        if after > before:
            yield file, after - before


def _read(path: Path, count: int) -> Sequence[Image]:
    """Read a picture, or frames of a clip, evenly spread."""
    import numpy as np
    from PIL import Image

    from trt_track.runtime.video import open_video

    if path.suffix.lower() in _PICTURES:
        try:
            return [Image.open(path).convert("RGB")]
        except (OSError, SyntaxError, ValueError) as error:
            raise VideoError(f"{path} cannot be read as a picture: {error}") from error
    with open_video(path) as clip:
        only = set(np.linspace(0, max(0, (clip.info.frame_count or count) - 1), count).astype(int).tolist())
        frames = clip.frames(size=64, only=only, keep_video=True)
        return [Image.fromarray(frame.video_rgb_hwc) for frame in frames if frame.video_rgb_hwc is not None]


def _recording_session(graphs: Specs, networks: Collection[str]) -> Any:
    """Open a session that keeps copies of what it gives to these networks, one object in a batch."""
    from trt_track.engines.onnxruntime_session import OnnxRuntimeSession

    class RecordingSession(OnnxRuntimeSession):
        max_batch = 1

        def __init__(self) -> None:
            super().__init__(graphs)
            self.seen: dict[str, list[dict[str, np.ndarray[Any, Any]]]] = {network: [] for network in networks}

        def run(self, graph: str, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None:
            if graph in self.seen:
                self.seen[graph].append({name: array.copy() for name, array in inputs.items()})
            super().run(graph, inputs, outputs)

    return RecordingSession()
