"""`python -m trt_track` is `trt-track`."""

from trt_track.cli import main

if __name__ == "__main__":
    main()
