"""A small folder in DAVIS form: discs in plain colours that move over a grey ground."""

import numpy as np
from PIL import Image

from trt_track.runtime.palette import davis_palette

FRAMES = 8
COLOURS = {1: (220, 40, 40), 2: (40, 200, 60), 3: (240, 220, 40)}


def write_davis(folder, *, late=3, names=("discs", "unlisted"), first=0):
    """Write sequences whose files are numbered from `first` on, and a set that lists `discs` alone."""
    for frame in range(FRAMES):
        ids = annotation(frame, late=late)
        picture = np.full((96, 128, 3), 120, np.uint8)
        for number, colour in COLOURS.items():
            picture[ids == number] = colour
        for name in names:
            (folder / "JPEGImages" / "480p" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / "JPEGImages" / "480p" / name / f"{first + frame:05d}.jpg", quality=95)
            save_ids(folder / "Annotations" / "480p" / name / f"{first + frame:05d}.png", ids)
    (folder / "ImageSets" / "2017").mkdir(parents=True)
    (folder / "ImageSets" / "2017" / "val.txt").write_text("discs\n\n")
    return folder


def annotation(frame, *, late=3):
    """Two discs that move and, from frame `late` on, a third one; a void rim around the first."""
    ids = np.zeros((96, 128), np.uint8)
    ids[disc(30 + 2 * frame, 40, 17)] = 255
    ids[disc(30 + 2 * frame, 40, 15)] = 1
    ids[disc(90 - frame, 60, 12)] = 2
    if frame >= late:
        ids[disc(60, 80, 9)] = 3
    return ids


def disc(x, y, radius, size=(96, 128)):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def save_ids(path, ids):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids)
    image.putpalette(davis_palette().tobytes())
    image.save(path)
