"""In which order the cells of a square grid lie in memory: row by row, or window by window.

Hiera attends within windows, and everything else in it works on single cells, so features that lie window by window need no copying
between blocks of the same window. Halving both sides of a window at a stage's end leaves the windows where they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Windows:
    """A grid of G x G cells cut into n x n windows of w x w, as a tensor (F * n * n, w * w, C). With w = G it lies row by row.

    Where w does not divide G, the windows at the right and the lower border are filled up with zeros.
    """

    grid: int
    side: int

    @property
    def across(self) -> int:
        """How many windows stand side by side."""
        return -(-self.grid // self.side)

    @property
    def padded(self) -> bool:
        """Whether the windows reach over the border of the grid."""
        return self.grid % self.side != 0

    @property
    def halved(self) -> Windows:
        """The same windows after pooling 2 x 2 cells."""
        return Windows(self.grid // 2, self.side // 2)

    def cut(self, x: Tensor) -> Tensor:
        """Map cells row by row (F, G*G, C) to these windows."""
        if self.side == self.grid:
            return x
        x = x.unflatten(1, (self.grid, self.grid))
        if self.padded:
            missing = self.across * self.side - self.grid
            x = functional.pad(x, (0, 0, 0, missing, 0, missing))
        tiles = x.reshape(-1, self.across, self.side, self.across, self.side, x.shape[-1])
        return tiles.transpose(2, 3).reshape(-1, self.side**2, x.shape[-1])

    def joined(self, x: Tensor) -> Tensor:
        """Map these windows to cells row by row (F, G*G, C)."""
        if self.side == self.grid:
            return x
        tiles = x.reshape(-1, self.across, self.across, self.side, self.side, x.shape[-1])
        x = tiles.transpose(2, 3).reshape(-1, self.across * self.side, self.across * self.side, x.shape[-1])
        return x[:, : self.grid, : self.grid].flatten(1, 2) if self.padded else x.flatten(1, 2)

    def to(self, other: Windows, x: Tensor) -> Tensor:
        """Map these windows to others of the same grid."""
        return x if other == self else other.cut(self.joined(x))

    def pooled(self, x: Tensor) -> Tensor:
        """Take the largest of each 2 x 2 cells, into the windows `halved`: rows first, so that channels stay innermost."""
        rows = x.unflatten(1, (self.side // 2, 2, self.side)).amax(2)
        pooled: Tensor = rows.unflatten(2, (self.side // 2, 2)).amax(3).flatten(1, 2)
        return pooled

    def image(self, x: Tensor) -> Tensor:
        """Map these windows to (F, C, G, G)."""
        image: Tensor = self.joined(x).transpose(1, 2).unflatten(2, (self.grid, self.grid))
        return image
