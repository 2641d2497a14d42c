"""Every error that trt-track raises on purpose.

    TrtTrackError
    ├── ModelError            a name, configuration or checkpoint that cannot be used
    ├── ExportError           PyTorch -> ONNX failed
    │   └── ParityError       a graph or a track differs from upstream by more than its tolerance
    ├── EngineError
    │   ├── BundleError           a bundle is damaged, changed or from a newer version
    │   ├── EngineBuildError      ONNX -> engine failed
    │   ├── EngineMismatchError   an engine was built for another GPU or TensorRT
    │   ├── EngineRunError        an engine failed while it ran
    │   │   └── DeviceMemoryError     the memory to compute in is short
    │   └── BackendError          a backend cannot be used on this machine
    ├── TensorMismatchError   a tensor's name, shape or dtype is not the contract's
    ├── VideoError            a clip cannot be opened or read
    ├── PromptError           a click, box or mask that makes no sense for its clip
    └── OutputError           results cannot be written

A message says what was expected, what came and what to do. The command line prints it in one line and exits with 2; any other
exception is a bug and shows its traceback.
"""


class TrtTrackError(Exception):
    """Base class: catch this one to catch everything that trt-track raises on purpose."""


class ModelError(TrtTrackError):
    """A model's name, configuration or checkpoint cannot be used."""


class ExportError(TrtTrackError):
    """A PyTorch module could not be turned into an ONNX graph."""


class ParityError(ExportError):
    """A graph or a track differs from upstream by more than its tolerance."""


class EngineError(TrtTrackError):
    """Base class of what goes wrong between an ONNX graph and its outputs."""


class BundleError(EngineError):
    """A bundle is incomplete, was changed after it was written, or comes from a newer version."""


class EngineBuildError(EngineError):
    """TensorRT refused to compile a graph."""


class EngineMismatchError(EngineError):
    """An engine was built for another GPU, TensorRT flavour or TensorRT version."""


class EngineRunError(EngineError):
    """An engine failed while it ran."""


class DeviceMemoryError(EngineRunError):
    """The GPU, or the host where it computes, has less free memory than was asked for."""


class BackendError(EngineError):
    """A backend was asked for that cannot be used on this machine."""


class TensorMismatchError(TrtTrackError):
    """A tensor's name, shape or dtype is not the one that the graph's contract states."""


class VideoError(TrtTrackError):
    """A clip is missing, unreadable, empty or no video at all."""


class PromptError(TrtTrackError):
    """A click, box or mask makes no sense for the clip that it was given for."""


class OutputError(TrtTrackError):
    """Results cannot be written: the folder is taken, the disk is full, access is denied."""
