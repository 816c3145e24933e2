"""A folder of clips looked at before tuning: facts of each clip, a contact sheet, and advice in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lamp_lightning.data.cache import Cache
from lamp_lightning.data.captions import read_captions_of_each
from lamp_lightning.data.checks import FEWEST, MOST, one_rate, other_rate, suits_most
from lamp_lightning.data.clip import Clip
from lamp_lightning.data.clips import ClipError, list_clips, read_fitted
from lamp_lightning.data.decoder_process import ClipDecoder
from lamp_lightning.data.video import contact_sheet
from lamp_lightning.inspect.look import (
    STILL_SHARE,
    ClipFacts,
    Motion,
    compare,
    cropped_share,
    find_cuts,
    find_still_ends,
    longest_piece,
    thumbnails,
)
from lamp_lightning.metrics.familiar import ELSE, REAL, doubts
from lamp_lightning.runtime.console import counted
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import write_json
from lamp_lightning.runtime.stopping import check_stop

SMALL = 0.75  # of the model's sides: a clip with smaller ones gets blurred
CROPPED = 0.4  # of the picture: who loses more should look at it
UNKNOWN = f"{ELSE} take {REAL}."
SHEET, FACTS = "contact_sheet.png", "inspection.json"
# What each finding means, of one clip and of several; in the order in which they are mended.
_WORDS = {
    "too_short": (
        "has fewer frames than the {needed} of a sample: {shorter}",
        "have fewer frames than the {needed} of a sample: {shorter}",
    ),
    "cut": (
        "has a cut: split the file there, so that each clip is one take",
        "have cuts: split the files there, so that each clip is one take",
    ),
    "still": (
        "stands still: take it out, there is no motion to learn from it",
        "stand still: take them out, there is no motion to learn from them",
    ),
    "backwards": (
        "moves backwards beside the others: look at it, and reverse it (ffmpeg -vf reverse)",
        "move backwards beside the others: look at them, and reverse them (ffmpeg -vf reverse)",
    ),
    "mirrored": (
        "moves as a mirror image of the others: mirror it (ffmpeg -vf hflip)",
        "move as mirror images of the others: mirror them (ffmpeg -vf hflip)",
    ),
    "other_motion": (
        "moves unlike the others: is it the same motion? If not, take it out",
        "move unlike the others: are they the same motion? If not, take them out",
    ),
    "still_ends": (
        "stands still at an end: trim it to the motion",
        "stand still at an end: trim them to the motion",
    ),
    "small": (
        "is smaller than the {width}x{height} of the model and gets blurred: find a larger version",
        "are smaller than the {width}x{height} of the model and get blurred: find larger versions",
    ),
    "cropped": (
        "loses much of the picture at the edges: look whether the motion is still in it",
        "lose much of the picture at the edges: look whether the motion is still in them",
    ),
}


@dataclass(frozen=True)
class Inspection:
    """What `inspect_clips` found.

    Args:
        folder: of the clips.
        size: height and width of what the model sees, in pixels.
        num_frames: of a sample.
        frame_stride: every so many frames of a clip make the sample.
        fps: frames per second at which clips are read; None: as they are.
        clips: facts of each clip that could be read, in natural order of their names.
        unreadable: names of the others, and why.
        advice: what to do, in sentences, the most urgent first; empty where nothing has to be done.
        videos: of each clip its name and the frames that the model may see, uint8 `(f, h, w, 3)`.

    Example:
        >>> from pathlib import Path
        >>> clips = [ClipFacts("1.mp4", 8.0, 24, 3.0, (64, 64), findings=("cut",), cuts=(9,))]
        >>> look = Inspection(Path("dance"), (64, 64), 16, 1, None, clips, {}, [], [])
        >>> look.found("cut"), dict(look.rates)
        (['1.mp4'], {'8': 1})
    """

    folder: Path
    size: tuple[int, int]
    num_frames: int
    frame_stride: int
    fps: float | None
    clips: list[ClipFacts]
    unreadable: dict[str, str]
    advice: list[str]
    videos: list[tuple[str, np.ndarray]] = field(repr=False)

    def found(self, finding: str) -> list[str]:
        """The names of the clips that have a finding, such as `cut`."""
        return [clip.name for clip in self.clips if finding in clip.findings]

    @property
    def rates(self) -> Counter[str]:
        """Frame rates in words, and how many clips have each; nothing of clips that do not say theirs."""
        return Counter(f"{clip.fps:.4g}" for clip in self.clips if clip.fps > 0)

    def as_dict(self) -> dict[str, Any]:
        """All but the pictures, as it stands in inspection.json."""
        return {
            "folder": str(self.folder),
            "size": list(self.size),
            "num_frames": self.num_frames,
            "frame_stride": self.frame_stride,
            "fps": self.fps,
            "clips": [asdict(clip) for clip in self.clips],
            "unreadable": self.unreadable,
            "advice": self.advice,
        }

    def table(self) -> list[str]:
        """The facts as lines of a table, for a terminal."""
        width = max((len(clip.name) for clip in self.clips), default=4)
        lines = [f"{'clip':<{width}}  {'fps':>6} {'frames':>6} {'length':>7}  {'size':>9}  {'cut off':>7}"
                 f"  {'motion':>6}  {'alike':>5}  findings"]  # fmt: skip
        for clip in self.clips:
            length = "-" if clip.seconds is None else f"{clip.seconds:.1f} s"
            alike = "-" if clip.likeness is None else f"{clip.likeness:.2f}"
            pixels = f"{clip.size[0]}x{clip.size[1]}"
            lines.append(
                f"{clip.name:<{width}}  {clip.fps:>6.4g} {clip.frames:>6} {length:>7}  {pixels:>9}"
                f"  {clip.cut_away:>7.0%}  {clip.motion:>6.2f}  {alike:>5}  {_findings(clip)}".rstrip()
            )
        return lines

    def draw(self, path: str | Path) -> Path:
        """Write the contact sheet: 8 frames of each clip as the model sees them, with what was found."""
        rows = [(_label(clip), video) for clip, (_, video) in zip(self.clips, self.videos, strict=True)]
        height, width = self.size
        title = (
            f"{self.folder.name}: {counted(len(self.clips), 'clip')} as the model sees them, {width}x{height}"
        )
        return contact_sheet(rows, path, title=title)

    def write(self, out: str | Path) -> tuple[Path, Path]:
        """Write contact_sheet.png and inspection.json to a folder; returns their paths.

        Raises UserError where they cannot be written.
        """
        sheet, facts = Path(out) / SHEET, Path(out) / FACTS
        self.draw(sheet)
        write_json(facts, self.as_dict())
        return sheet, facts


def inspect_clips(
    folder: str | Path,
    *,
    motion: str = "",
    size: tuple[int, int] = (64, 64),
    num_frames: int = 16,
    frame_stride: int = 1,
    flip: bool = False,
    captions: str | Path | bool | None = None,
    cache_dir: str | Path | None = None,
    max_clips: int | None = None,
    timeout_s: float = 60.0,
    fps: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    model: str | None = None,
) -> Inspection:
    """Look at the clips of a folder as tuning would read them.

    Args:
        folder: of the clips, or one clip.
        motion: its name, the caption of clips that have none.
        size: height and width of what the model sees, in pixels.
        num_frames: of a sample.
        frame_stride: every so many frames of a clip make the sample.
        flip: clips are mirrored in tuning, so that mirrored ones are no other motion.
        captions: as for `load_motion_set`.
        cache_dir: where decoded clips are kept; tuning finds them there.
        max_clips: only the first so many.
        timeout_s: seconds that decoding a clip may take.
        fps: frames per second at which clips are read; None: all frames, whatever their rates are.
        progress: is called with the number of clips that are done, and of all.
        model: that is to be tuned; the tiny one is asked whether it knows what the clips show.

    Returns:
        Facts of each clip, advice, and the frames of the contact sheet. A clip that cannot be read is named.

    Raises:
        UserError: the folder is missing or has no clip, or none that can be read; or its captions are wrong.

    Example:
        >>> import tempfile
        >>> from lamp_lightning.data import write_mp4
        >>> from lamp_lightning.inspect import inspect_clips
        >>> from lamp_lightning.toyworld import held_out_scenes, render_clip
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     video = render_clip(held_out_scenes("horse_run", 1)[0], frames=4)
        ...     _ = write_mp4(f"{folder}/1.mp4", video, fps=8)
        ...     look = inspect_clips(folder, num_frames=4, cache_dir=f"{folder}/cache")
        >>> look.clips[0].size, look.clips[0].findings
        ((64, 64), ())
        >>> look.advice
        ['There is 1 clip; the method is made for 8-16 of one motion.']
    """
    paths = list_clips(folder)[:max_clips]
    prompts = read_captions_of_each(paths, motion or Path(folder).name, captions)
    clips, videos, motions, unreadable, cache = [], [], [], {}, Cache(cache_dir)
    needed = (num_frames - 1) * frame_stride + 1
    with ClipDecoder(timeout_s) as decoder:
        for number, (path, prompt) in enumerate(zip(paths, prompts, strict=True), start=1):
            check_stop()
            try:
                clip = read_fitted(path, prompt, size, cache, decoder, fps)
                facts, movement = _look(clip, size, needed, frame_stride)
                clips.append(facts)
                motions.append(movement)
                videos.append((path.name, clip.frames[::frame_stride]))
            except ClipError as error:
                unreadable[path.name] = str(error)
            if progress is not None:
                progress(number, len(paths))
    if not clips:
        raise UserError("\n".join(["No clip can be used:", *list(unreadable.values())[:5]]))
    clips = [_with(facts, *each) for facts, each in zip(clips, compare(motions, flip=flip), strict=True)]
    look = Inspection(Path(folder), size, num_frames, frame_stride, fps, clips, unreadable, [], videos)
    look.advice.extend(_advice(look, needed))
    if said := doubts(model, [clip.prompt for clip in clips], [video for _, video in videos], advice=UNKNOWN):
        look.advice.append(said)
    return look


def _look(clip: Clip, size: tuple[int, int], needed: int, stride: int) -> tuple[ClipFacts, Motion]:
    """What one clip shows by itself; frames are counted as in its file."""
    height, width = clip.source_size or clip.frames.shape[1:3]
    small = thumbnails(clip.frames)
    cuts = find_cuts(small)
    movement = Motion.of(longest_piece(clip.frames, cuts)[::stride])
    ends = (0, 0) if cuts or movement.is_still else find_still_ends(small)
    share = cropped_share((height, width), size)
    scale = min(height / size[0], width / size[1])
    tests = {
        "too_short": len(clip.frames) < needed,
        "cut": bool(cuts),
        "still": movement.is_still,
        "still_ends": max(ends) > STILL_SHARE * len(clip.frames),
        "small": scale < SMALL,
        "cropped": share > CROPPED,
    }
    facts = ClipFacts(
        name=clip.path.name,
        fps=clip.fps if clip.source_fps is None else clip.source_fps,
        frames=len(clip.frames),
        seconds=len(clip.frames) / clip.fps if clip.fps > 0 else None,
        size=(width, height),
        cut_away=share,
        motion=movement.amount,
        cuts=cuts,
        still_ends=ends,
        variable=clip.variable,
        findings=tuple(name for name, there in tests.items() if there),
        prompt=clip.prompt,
    )
    return facts, movement


def _with(facts: ClipFacts, likeness: float | None, finding: str | None) -> ClipFacts:
    """The facts with what the comparison of all clips says."""
    findings = tuple(name for name in _WORDS if name in (*facts.findings, finding))
    return ClipFacts(**{**vars(facts), "likeness": likeness, "findings": findings})


# -- words ---------------------------------------------------------------------------------------------------


def _advice(look: Inspection, needed: int) -> Iterator[str]:
    """What to do, the most urgent first."""
    yield from look.unreadable.values()
    told = {"needed": needed, "shorter": _shorter(look), "height": look.size[0], "width": look.size[1]}
    for finding, (one, several) in _WORDS.items():
        clips = [clip for clip in look.clips if finding in clip.findings]
        if clips:
            names = _some([_named(clip, finding) for clip in clips], len(look.clips))
            yield f"{names} {(one if len(clips) == 1 else several).format(**told)}."
    yield from _rates_advice(look)
    count = len(look.clips)
    if not FEWEST <= count <= MOST:
        verb = "is" if count == 1 else "are"
        yield f"There {verb} {counted(count, 'clip')}; the method is made for {FEWEST}-{MOST} of one motion."


def _rates_advice(look: Inspection) -> Iterator[str]:
    """What to do about frame rates, where the clips differ in them or in themselves."""
    known = {clip.name: clip.fps for clip in look.clips if clip.fps > 0}
    slow = [f"{clip.name} ({clip.fps:.4g})" for clip in look.clips if 0 < clip.fps < 0.95 * (look.fps or 0)]
    variable = [clip.name for clip in look.clips if clip.variable]
    if slow:
        verb = "has" if len(slow) == 1 else "have"
        yield (
            f"{_some(slow, len(look.clips))} {verb} fewer frames per second than data.fps={look.fps:.4g}, so "
            f"that frames repeat and the motion stutters. {other_rate(look.fps or 0, list(known.values()))}"
        )
    if look.fps is None and len(look.rates) > 1:
        counts = ", ".join(f"{rate} ({count})" for rate, count in look.rates.most_common())
        yield (
            f"The clips have different frame rates: {counts} frames per second. The same motion is faster in "
            f"some. {one_rate(known)}"
        )
    elif look.fps is None and variable:
        verb = "shows its" if len(variable) == 1 else "show their"
        yield f"{_some(variable, len(look.clips))} {verb} frames for different times. {one_rate(known)}"


def _shorter(look: Inspection) -> str:
    """What to do about clips that are too short: fewer frames only where most clips ask for it."""
    counts = [clip.frames for clip in look.clips]
    fitting = min(look.num_frames, 1 + (int(suits_most(counts)) - 1) // look.frame_stride)
    if fitting < 2 or fitting == look.num_frames:
        few = sum("too_short" in clip.findings for clip in look.clips)
        return "take a longer one, or leave it out" if few == 1 else "take longer ones, or leave them out"
    odd = [clip.name for clip in look.clips if 1 + (clip.frames - 1) // look.frame_stride < fitting]
    return f"data.num_frames={fitting} fits {f'all but {_some(odd, len(counts))}' if odd else 'all'}"


def _named(clip: ClipFacts, finding: str) -> str:
    """A clip's name, and where in it that is found."""
    if finding == "cut":
        places = [_place(clip, frame) for frame in clip.cuts[:3]]
        return f"{clip.name} ({', '.join(places)})"
    if finding == "still_ends":
        begin, end = clip.still_ends
        places = [f"the first {begin}"] * bool(begin) + [f"the last {end}"] * bool(end)
        return f"{clip.name} ({' and '.join(places)} frames)"
    if finding == "cropped":
        return f"{clip.name} ({clip.cut_away:.0%})"
    if finding == "too_short":
        return f"{clip.name} ({clip.frames})"
    if finding == "small":
        return f"{clip.name} ({clip.size[0]}x{clip.size[1]})"
    return clip.name


def _some(names: list[str], count: int, most: int = 5) -> str:
    """Some of the names of `count` clips."""
    if len(names) == count > 1:
        return f"All {count} clips"
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _place(clip: ClipFacts, frame: int) -> str:
    return (
        f"frame {frame}"
        if not clip.seconds
        else f"frame {frame}, at {frame * clip.seconds / clip.frames:.2f} s"
    )


def _findings(clip: ClipFacts) -> str:
    return ", ".join(name.replace("_", " ") for name in clip.findings)


def _label(clip: ClipFacts) -> str:
    """What stands beside a clip in the contact sheet."""
    facts = [f"{clip.fps:.4g} fps" if clip.fps > 0 else "no rate", counted(clip.frames, "frame")]
    if clip.cut_away >= 0.005:
        facts.append(f"{clip.cut_away:.0%} cut off")
    facts.append(f"motion {clip.motion:.2f}")
    if clip.likeness is not None and math.isfinite(clip.likeness):
        facts.append(f"alike {clip.likeness:.2f}")
    found = f"; {_findings(clip).upper()}" if clip.findings else ""
    return f"{clip.name}: {', '.join(facts)}{found}"


def sentences(advice: Sequence[str]) -> list[str]:
    """Advice as lines of a list, for a terminal."""
    return [f"- {line}" for text in advice for line in text.splitlines()]
