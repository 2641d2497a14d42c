"""The prompts of one pass over a clip: those ahead by frame, and of those behind only what prompts that come later depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heappop, heappush

from trt_track.errors import PromptError
from trt_track.runtime.prompt import Prompt
from trt_track.runtime.prompt_rules import check_story


class Schedule:
    """Takes prompts in before and during a pass; what a prompt costs does not depend on how many lie behind."""

    def __init__(self, prompts: Sequence[Prompt], *, most: int, reverse: bool) -> None:
        """Take in what is known before the pass begins.

        Args:
            prompts: merged, each checked by itself.
            most: objects at once.
            reverse: whether the pass goes from the clip's end to its start.

        Raises:
            PromptError: prompts of one object contradict each other, or there are more objects at once.
        """
        self._most, self.reverse = most, reverse
        self._ahead: dict[int, dict[int, Prompt]] = {}
        """By frame and object, from the frame that the pass is at on."""
        self._turns: list[int] = []
        """Of those frames, as a heap."""
        self._stories: dict[int, dict[int, Prompt]] = {}
        """By object and frame: the prompts ahead, and behind them the first one and the removal."""
        self._active: set[int] = set()
        """Objects that the prompts behind leave."""
        self.add(prompts)

    def due(self, frame: int) -> list[Prompt]:
        """Return the prompts for a frame that was not left, removals first."""
        return sorted(self._ahead.get(frame, {}).values(), key=lambda prompt: not prompt.remove)

    def add(self, prompts: Sequence[Prompt]) -> None:
        """Take in prompts for frames that were not left; one for an object and a frame that had one takes its place.

        Raises:
            PromptError: as when it was made; none was taken in.
        """
        told: dict[int, dict[int, Prompt]] = {}
        for prompt in prompts:
            told.setdefault(prompt.object_id, {})[prompt.frame] = prompt
        stories = {object_id: self._stories.get(object_id, {}) | new for object_id, new in told.items()}
        firsts = {object_id: self._checked(story) for object_id, story in stories.items()}
        if any(first in told[object_id] for object_id, first in firsts.items()):
            self._check_count(prompts)
        self._stories |= stories
        for prompt in prompts:
            if prompt.frame not in self._ahead:
                heappush(self._turns, self._turn(prompt.frame))
            self._ahead.setdefault(prompt.frame, {})[prompt.object_id] = prompt

    def leave_behind(self, frame: int) -> None:
        """Forget what later prompts do not depend on of the frames before this one, which is where the pass is."""
        while self._turns and self._turns[0] < self._turn(frame):
            behind = self._frame(heappop(self._turns))
            for prompt in self.due(behind):
                _follow(self._active, prompt)
                self._shorten(prompt)
            del self._ahead[behind]

    def _shorten(self, prompt: Prompt) -> None:
        """Forget a prompt that lies behind, if neither the beginning nor the end of its object's story."""
        story = self._stories[prompt.object_id]
        first = min(story, key=self._turn)
        if prompt.frame != first and not prompt.remove:
            del story[prompt.frame]

    def _checked(self, story: Mapping[int, Prompt]) -> int:
        """Return the frame on which an object begins, after a look at its whole story."""
        frames = sorted(story, key=self._turn)
        check_story([story[frame] for frame in frames], reverse=self.reverse)
        return frames[0]

    def _check_count(self, prompts: Sequence[Prompt]) -> None:
        """Refuse prompts that would have more objects on one frame than there is memory for."""
        ahead = {frame: dict(known) for frame, known in self._ahead.items()}
        for prompt in prompts:
            ahead.setdefault(prompt.frame, {})[prompt.object_id] = prompt
        active = set(self._active)
        for frame in sorted(ahead, key=self._turn):
            for prompt in sorted(ahead[frame].values(), key=lambda prompt: not prompt.remove):
                _follow(active, prompt)
                if len(active) > self._most:
                    raise PromptError(f"frame {frame}: more than {self._most} objects at once: raise --max-objects (max_objects in Python)")

    def _turn(self, frame: int) -> int:
        """Return a number that grows in the direction of travel."""
        return -frame if self.reverse else frame

    _frame = _turn  # its own inverse


def _follow(active: set[int], prompt: Prompt) -> None:
    """Let a prompt begin or end its object."""
    if prompt.remove:
        active.discard(prompt.object_id)
    else:
        active.add(prompt.object_id)
