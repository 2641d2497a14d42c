"""numpy's dtype of a tensor by its name."""

from __future__ import annotations

from functools import cache

import numpy as np

from trt_track.errors import BackendError


@cache
def numpy_dtype(name: str) -> np.dtype:
    """Return numpy's dtype of a tensor; bfloat16 comes from `ml_dtypes`, which the extra `export` installs.

    Raises:
        BackendError: it is missing.
    """
    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError as error:
            raise BackendError(f"ml_dtypes is not installed ({error}), and bfloat16 needs it: pip install 'trt-track[export]'") from error
        found: np.dtype = np.dtype(ml_dtypes.bfloat16)
        return found
    return np.dtype(name)
