"""How the page calls what was made, so that two videos of one motion can be told apart."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from lamp_lightning.app.workspace import Tuned, words_of

KINDS = {"videos": "painted", "edits": "edited", "runs": "tuned"}  # folders of the workspace


@dataclass(frozen=True)
class Title:
    """Of a video: what it shows, with its seed; which work made it; and when.

    Example:
        >>> Title("a red waterfall, seed 0", "painted, number 2", "30 Nov, 14:12").full
        'a red waterfall, seed 0 (painted, number 2; 30 Nov, 14:12)'
    """

    shows: str
    made: str
    when: str

    @property
    def full(self) -> str:
        return f"{self.shows} ({self.made}; {self.when})"


def title_of(file: Path, root: Path) -> Title:
    """The title of a video of the workspace, by its path and its time."""
    parts = file.relative_to(root).parts
    number = next((part for part in parts[:-1] if part.isdecimal()), None)
    made = KINDS.get(parts[0], "made here") + (f", number {int(number)}" if number else "")
    if parts[0] == "runs":
        made += f", {_steps(file)}"
    when = time.strftime("%d %b, %H:%M", time.localtime(file.stat().st_mtime)) if file.exists() else "gone"
    return Title(shown(file), made, when)


def shown(file: Path) -> str:
    """What a video shows, from the name of its file, or of its folder where all are called alike."""
    name = file.parent.name if file.stem == "edit" else file.stem
    if several := re.fullmatch(r"(.+)_and_(\d+)_more", name):
        return f"{shown(file.with_stem(several[1]))}, and {several[2]} more beside it"
    prompt, _, seed = name.rpartition("_seed")
    return f"{words_of(prompt)}, seed {seed}" if prompt and seed.isdecimal() else words_of(name)


def is_wall(file: Path) -> tuple[bool, str]:
    """What sorts videos by name, and one that shows several of them beside each other behind these."""
    return file.stem.endswith("_more"), file.name


def step_of(preview: Path) -> str:
    """The step at which a preview was made."""
    return f"step {int(preview.parent.name.removeprefix('step_'))}"


def run_label(tuned: Tuned) -> str:
    """How a tuned motion is offered."""
    return f"{words_of(tuned.motion)}, number {int(tuned.job)}, {run_state(tuned)}"


def run_state(tuned: Tuned) -> str:
    """How far a motion is tuned: marked where tuning has not come to its end."""
    steps = "" if tuned.steps is None else f"{tuned.steps} step{'s' * (tuned.steps != 1)}"
    return steps or "finished" if tuned.finished else f"unfinished, {steps or 'some steps'} so far"


def _steps(file: Path) -> str:
    """At which step a video of a run was made."""
    return step_of(file) if file.parent.name.startswith("step_") else "at the end"
