"""A clip and a motion set, as they are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median

import numpy as np

from lamp_lightning.runtime.files import array_sha256


@dataclass(frozen=True)
class Clip:
    """A decoded clip.

    Args:
        path: of its file.
        frames: uint8 `(f, h, w, 3)` RGB.
        fps: frames per second.
        source_size: height and width of the frames in the file.
        prompt: its caption.
        source_fps: the rate of the file, where frames were read at another.
        variable: whether the file shows its frames for different times.
        captions: all of its captions, where it has several; the first is the prompt.
        mask: what counts in the loss, uint8 `(f, h, w)`, or `(1, h, w)` for all frames: 255 counts, 0 does
            not.

    Example:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from lamp_lightning.data import Clip
        >>> clip = Clip(Path("rain.mp4"), np.zeros((3, 8, 8, 3), np.uint8), fps=8, prompt="red rain falls")
        >>> clip.digest[:8]
        '1a0295f4'
    """

    path: Path
    frames: np.ndarray
    fps: float
    source_size: tuple[int, int] | None = None
    prompt: str = ""
    source_fps: float | None = None
    variable: bool = False
    captions: tuple[str, ...] = ()
    mask: np.ndarray | None = None

    @property
    def prompts(self) -> tuple[str, ...]:
        """Its captions, one or several."""
        return self.captions or (self.prompt,)

    @cached_property
    def digest(self) -> str:
        """Hash of the pixels: two clips with the same frames have the same latents."""
        return array_sha256(self.frames)


@dataclass
class MotionSet:
    """The clips of one motion, in natural order of their file names.

    Example:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from lamp_lightning.data import Clip, MotionSet
        >>> frames = np.zeros((3, 8, 8, 3), np.uint8)
        >>> MotionSet("rain", [Clip(Path("a.mp4"), frames, fps=8, prompt="red rain falls")]).prompts
        ['red rain falls']
    """

    name: str
    clips: list[Clip] = field(default_factory=list)

    @property
    def prompts(self) -> list[str]:
        return [clip.prompt for clip in self.clips]

    @property
    def fps(self) -> float:
        """Frames per second: the median of the clips' rates, 8 where none of them says its own."""
        rates = [clip.fps for clip in self.clips if 0 < clip.fps <= 1000]
        return median(rates) if rates else 8.0
