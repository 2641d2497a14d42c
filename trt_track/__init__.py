"""SAM 2 tracking compiled to TensorRT: batched over objects, in constant memory, equal to upstream.

from trt_track import Tracker

with Tracker.open("sam2.1-hiera-tiny") as tracker, tracker.video("clip.mp4") as video:
    video.add(frame=0, object_id=1, box=(100, 50, 300, 400))
    for result in video.propagate():
        ...  # result.frame_index, result.time_s, result.object_ids, result.masks (B, H, W) bool, result.scores
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trt_track.errors import TrtTrackError as TrtTrackError
    from trt_track.runtime.prompts import Prompt as Prompt
    from trt_track.runtime.results import FrameResult as FrameResult
    from trt_track.runtime.tracker import Tracker as Tracker
    from trt_track.runtime.tracker import Video as Video

_HOMES = {
    "FrameResult": "trt_track.runtime.results",
    "Prompt": "trt_track.runtime.prompts",
    "Tracker": "trt_track.runtime.tracker",
    "TrtTrackError": "trt_track.errors",
    "Video": "trt_track.runtime.tracker",
}
__all__ = ["FrameResult", "Prompt", "Tracker", "TrtTrackError", "Video"]


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used, so that the command line starts without them."""
    if name not in _HOMES:
        raise AttributeError(f"module 'trt_track' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
