"""One HTML page of a comparison with everything inside: it fetches nothing, and tells all without scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lamp_lightning.report.comparison import FROZEN, TRUTH, Comparison, Entry, HeldOutScene, VideoFile
from lamp_lightning.report.dots import how_to_read
from lamp_lightning.report.drawing import COLOURS, Plot, svg
from lamp_lightning.report.strips import Strip, make_strips
from lamp_lightning.report.tables import main_table, motion_table, notes, shown_by_motion
from lamp_lightning.report.verdict import verdict

HERE = Path(__file__).parent
VIDEO_BYTES = 20 * 2**20  # of all videos in a page: more is slow on a phone
VIDEOS = 240  # in a page; of each motion's scenes as many are shown as that allows
_TRUE = Entry(TRUTH, "truth", kind="reference")
_FIRST = Entry("first_frame", "first frame", kind="reference")


@dataclass(frozen=True, eq=False)
class ShownVideo:
    """A video of a scene as it stands beside others, before it is read."""

    scene: HeldOutScene
    entry: Entry
    seed: int | None
    values: tuple[str, ...]

    def alt(self, strip: Strip) -> str:
        """What a reader who does not see it is told."""
        what = "the first frame" if strip.frames == 1 else f"{strip.frames} frames by {self.entry.label}"
        what = f"{strip.frames} frames of the true clip" if self.entry.name == TRUTH else what
        return f"{self.scene.prompt}: {what}"


# By motion: the prompt of each scene, and its videos side by side.
Groups = dict[str, list[tuple[str, dict[ShownVideo, Strip]]]]


def render(c: Comparison, plots: Sequence[Plot], video_bytes: int = VIDEO_BYTES) -> tuple[str, list[str]]:
    """The page, and what is wrong with the videos that it therefore lacks."""
    wanted, said = fewer_scenes(c, wanted_videos(c))
    strips, shrunk, broken = make_strips(wanted, video_bytes)
    main = main_table(c)
    settings = {
        "c": c,
        "verdict": verdict(c),
        "main": main,
        "main_notes": notes(c, main),
        "helps": [(head, text) for head, text in zip(main.headings, main.helps, strict=True) if text],
        "by_motion": [motion_table(c, c.measure(m)) for m in shown_by_motion(c) if len(c.motions) > 1],
        "plots": [(plot, Markup(svg(plot, inline=True))) for plot in plots],
        "how_to_read": how_to_read(c),
        "groups": groups(c, strips),
        "same_start": any(scene.truth or scene.first_frame for scene in c.scenes),
        "shrunk": " ".join(filter(None, (said, shrunk))),
        "broken": broken,
        "css": Markup((HERE / "page.css").read_text(encoding="utf-8")),
        "js": Markup((HERE / "page.js").read_text(encoding="utf-8")),
    }
    for k, theme in enumerate(("light", "dark")):
        settings[theme] = Markup(" ".join(f"--{name}: {pair[k]};" for name, pair in COLOURS.items()))
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html").render(settings), broken


def wanted_videos(c: Comparison) -> dict[ShownVideo, VideoFile]:
    """All videos that the comparison names, scene by scene in the order in which they stand side by side."""
    found: dict[ShownVideo, VideoFile] = {}
    for scene in c.scenes:
        shown = set()
        for entry in sorted(c.entries, key=lambda entry: entry.kind == "reference"):
            results = [r for r in c.results if (r.entry, r.motion) == (entry.name, scene.motion)]
            for seed, made in [(result.seed, made) for result in results for made in result.videos]:
                if made.scene == scene.name and made.video is not None:
                    shown.add(entry.name)
                    found[ShownVideo(scene, entry, seed, tuple(_values(c, made.metrics)))] = made.video
        if scene.truth is not None and TRUTH not in shown:
            found[ShownVideo(scene, c.entry(TRUTH) or _TRUE, None, ())] = scene.truth
        if scene.first_frame is not None and FROZEN not in shown:
            found[ShownVideo(scene, _FIRST, None, ())] = scene.first_frame
    return found


def fewer_scenes(
    c: Comparison, wanted: dict[ShownVideo, VideoFile], most: int = VIDEOS
) -> tuple[dict[ShownVideo, VideoFile], str]:
    """The videos of the first scenes of each motion, at most so many in all; and a sentence on that."""
    if len(wanted) <= most:
        return wanted, ""
    places = {motion: [scene for scene in c.scenes if scene.motion == motion] for motion in c.motions}
    count = max(map(len, places.values()))
    kept = wanted
    while len(kept) > most and count > 1:
        count -= 1
        kept = {w: file for w, file in wanted.items() if w.scene in places[w.scene.motion][:count]}
    return kept, f"Of each motion's scenes at most {count} {'is' if count == 1 else 'are'} shown."


def _values(c: Comparison, metrics: dict[str, float]) -> list[str]:
    measures = [c.measure(name) for name in shown_by_motion(c) if name in metrics]
    return [f"{m.words} {m.quantity(metrics[m.name])}" for m in measures]


def groups(c: Comparison, strips: dict[ShownVideo, Strip]) -> Groups:
    """The videos by motion, scene and place beside each other; scenes without any are left out."""
    made: Groups = {}
    for scene in sorted(c.scenes, key=lambda scene: c.motions.index(scene.motion)):
        if videos := {shown: strip for shown, strip in strips.items() if shown.scene is scene}:
            made.setdefault(scene.motion.replace("_", " "), []).append((scene.prompt, videos))
    return made
