"""What the page does when something is dropped, chosen or pressed. Nothing here knows of Gradio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamp_lightning.app import clips, markup
from lamp_lightning.app.jobs import Job, Jobs
from lamp_lightning.app.requests import Edit, Paint, Request, Tune, recipe
from lamp_lightning.app.workspace import Workspace, words_of
from lamp_lightning.runtime.config import options
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.reading import read_json
from lamp_lightning.runtime.schema import usable
from lamp_lightning.toyworld import MOTIONS

PREVIEWS = 6  # of a run, the last ones
LISTED = 200  # videos to choose from
MODELS = {
    "tiny": "tiny: a drawn world, runs anywhere",
    "tiny_dit": "tiny_dit: the same world by a transformer",
    "sd14": "Stable Diffusion 1.4",
    "sd15": "Stable Diffusion 1.5",
    "sd21": "Stable Diffusion 2.1",
    "sdxl": "Stable Diffusion XL",
    "sd35": "Stable Diffusion 3.5 Medium",
    "sana": "Sana 1.6B",
}
Choice = tuple[str, str]  # what is shown, and what it stands for


def models() -> list[Choice]:
    """The models of the config group, the tiny one first."""
    names = sorted(options("model"), key=lambda name: (name != "tiny", name))
    return [(MODELS.get(name, name), name) for name in names]


@dataclass(frozen=True)
class Actions:
    """The page's actions in a workspace. They raise UserError with what the person can do."""

    workspace: Workspace
    jobs: Jobs

    # -- clips ----------------------------------------------------------------------------------------------

    def take(
        self, files: Sequence[str] | None, name: str, model: str, frames: Any, fps: Any
    ) -> tuple[str, str]:
        """Make a motion of dropped files; returns its name and what the model will see."""
        seen = clips.take(self.workspace, files or [], name or "", _view(model, frames, fps))
        return seen.motion, markup.clips(seen, self.workspace.root)

    def draw(self, motion: str, model: str, frames: Any, fps: Any) -> tuple[str, str]:
        """The same with clips of the toy world."""
        if motion not in MOTIONS:
            raise UserError("Choose a motion to draw.")
        seen = clips.draw(self.workspace, motion, _view(model, frames, fps))
        return seen.motion, markup.clips(seen, self.workspace.root)

    def picture(self, file: str | None) -> tuple[str | None, str]:
        """Keep a photograph; returns where it is, and the picture."""
        if not file:
            return None, ""
        kept = self.workspace.keep_picture(file)
        return (
            kept,
            f'<div class="ll-given">{markup.picture(self.workspace.path(kept), "Your picture")}</div>',
        )

    def video(self, file: str | None) -> tuple[str | None, str]:
        """Keep a video that is to be edited; returns where it is, and the video."""
        if not file:
            return None, ""
        path = self.workspace.path(str(file))
        clips.check_video(path)
        kept = self.workspace.keep_video(path)
        shown = markup.video(self.workspace.path(kept), "the video", download=False)
        return kept, markup.row([shown])

    # -- jobs -----------------------------------------------------------------------------------------------

    def tune(self, motion: str | None, model: str, **values: Any) -> Job:
        """Put tuning a motion into the queue, with the frames and rate at which its clips were looked at."""
        if motion not in self.workspace.motions():
            raise UserError("Choose a motion: drop clips on the page Clips first.")
        seen = clips.as_seen(self.workspace, str(motion))
        return self._add(Tune, {"motion": motion, "model": model, **values, **seen})

    def paint(self, run: str | None, second: str | None, **values: Any) -> Job:
        """Put generating videos into the queue."""
        known = {tuned.run for tuned in self.workspace.tuned()}
        if run not in known or (second and second not in known):
            raise UserError("Choose a motion that is tuned: the page Tune makes one.")
        return self._add(Paint, {"run": run, "second": second or None, **values})

    def edit(self, video: str | None, model: str, **values: Any) -> Job:
        """Put editing a video into the queue."""
        if not video:
            raise UserError("Drop a video first.")
        if not str(values.get("prompt") or "").strip():
            raise UserError("Say what the video is to show, such as: a red car.")
        return self._add(Edit, {"video": video, "model": model, **values})

    def _add(self, kind: type[Tune] | type[Paint] | type[Edit], values: dict[str, Any]) -> Job:
        for key in ("prompt", "source_prompt"):
            if key in values:
                values[key] = " ".join(str(values[key] or "").split())
        request: Request = usable(kind, kind.__name__.lower(), values)
        for brought in (values.get("picture"), values.get("video")):
            if brought:
                self.workspace.path(brought)
        return self.jobs.add(request)

    # -- what is shown --------------------------------------------------------------------------------------

    def tuned(self, motion: str | None) -> str:
        """Previews, videos and the adapter of a motion's newest run."""
        asked = [job for job in self.jobs.all() if isinstance(job.request, Tune)]
        asked = [job for job in asked if job.request.motion == motion]  # type: ignore[union-attr]
        if not asked:
            return ""
        job = max(asked, key=lambda job: job.id)
        run = self.workspace.root / job.request.folder(job.id)
        shown = [markup.doubts(job, self.jobs), markup.diagnosis(_diagnosis(run / "metrics.json"))]
        if (run / "adapter.safetensors").is_file():
            name = f"{motion}.safetensors"
            link = markup.link(run / "adapter.safetensors", "Download the motion", name)
            shown.append(
                f'<p class="ll-note" id="adapter">{link} ({_size_of(run / "adapter.safetensors")})</p>'
            )
        final = sorted(run.glob("videos/*.mp4"))
        previews = sorted(run.glob("samples/step_*/*.mp4"))[-PREVIEWS:]
        if final:
            shown.append(markup.row(markup.video(file, _title(file)) for file in final))
        if previews:
            steps = [(file, f"step {int(file.parent.name.removeprefix('step_'))}") for file in previews]
            shown.append(markup.row(markup.video(f, step, download=False) for f, step in reversed(steps)))
        return "".join(shown)

    def made(self, kind: type[Paint] | type[Edit], mine: str | None) -> str:
        """What a tab asked for last; of a page that was opened anew, what was made last."""
        job = self.jobs.get(mine)
        if job is None:
            done = [job for job in self.jobs.all() if isinstance(job.request, kind)]
            job = next((job for job in reversed(done) if job.state == "finished"), None)
        if job is None:
            return ""
        folder = self.workspace.root / job.request.folder(job.id)
        if isinstance(job.request, Paint):
            shown = [markup.video(file, _title(file)) for file in sorted(folder.glob("*.mp4"))]
            return markup.row(shown) + markup.doubts(job, self.jobs)
        edited = sorted(folder.glob("videos/*/edit.mp4"))
        source = self.workspace.root / job.request.video  # type: ignore[union-attr]
        if not edited or not source.exists():
            return markup.doubts(job, self.jobs)
        pair = [markup.video(source, "before", download=False)]
        pair += [markup.video(file, job.request.prompt) for file in edited]  # type: ignore[union-attr]
        return f'<div class="ll-pair">{markup.row(pair)}</div>{markup.doubts(job, self.jobs)}'

    def pair(self, *chosen: str | None) -> str:
        """Videos side by side."""
        known = {name: label for label, name in self.video_choices()}
        shown = [(name, known[name]) for name in chosen if name in known]
        pieces = [markup.video(self.workspace.path(name), label) for name, label in shown]
        return f'<div class="ll-pair" id="pair">{markup.row(pieces)}</div>' if pieces else ""

    def motion_choices(self) -> list[Choice]:
        """Motions that have clips."""
        return [(words_of(name), name) for name in self.workspace.motions()]

    def run_choices(self) -> list[Choice]:
        """Motions that are tuned."""
        return [(tuned.label, tuned.run) for tuned in self.workspace.tuned()]

    def video_choices(self) -> list[Choice]:
        """Videos that were made."""
        found = self.workspace.videos()[:LISTED]
        return [(f"{_title(file)} ({_where(file)})", self.workspace.relative(file)) for file in found]

    def job_choices(self) -> list[Choice]:
        """Jobs that can be stopped or gone on with."""
        return [(f"{job.request.title}: {job.state}", job.id) for job in self.jobs.all() if job.is_open]


def steps_for(model: str) -> tuple[int, int, int]:
    """Steps of tuning, between previews, and of editing, that suit a model."""
    suits = recipe(model)
    return suits["steps"], suits["every"], suits["edit_steps"]


def _view(model: str, frames: Any, fps: Any) -> clips.View:
    if model not in options("model"):
        raise UserError("Choose a model.")
    if not isinstance(frames, int | float) or not 2 <= frames <= 128:
        raise UserError("Take from 2 to 128 frames.")
    if fps and not 0.1 <= fps <= 1000:
        raise UserError("Take from 0.1 to 1000 frames per second, or leave that empty.")
    suits = recipe(model)
    return clips.View((suits["height"], suits["width"]), int(frames), float(fps) if fps else None)


def _diagnosis(file: Path) -> list[str]:
    """What a finished run says came of tuning: the verdict, and sentences."""
    try:
        found = read_json(file, what="the metrics of a run")["diagnosis"]
        said = [str(found[key]) for key in ("verdict", "reason", "best", "advice") if found.get(key)]
    except (UserError, KeyError, TypeError, AttributeError):
        return []
    return [clips.without_paths(text, file.parent)[:600] for text in said]


def _title(file: Path) -> str:
    """What a video shows, from the name of its file, or of its folder where all are called alike."""
    name = file.parent.name if file.stem == "edit" else file.stem
    return words_of(name.rpartition("_seed")[0] or name)


def _where(file: Path) -> str:
    kinds = {"videos": "painted", "edits": "edited", "runs": "tuned"}
    for folder in file.parents:
        if folder.parent.name in kinds and folder.name.isdecimal():
            return f"{kinds[folder.parent.name]}, number {int(folder.name)}"
        if folder.name.isdecimal():
            return f"tuned, number {int(folder.name)}"
    return "made here"


def _size_of(file: Path) -> str:
    size = file.stat().st_size
    return f"{size / 1e9:.1f} GB" if size > 1e9 else f"{max(0.1, size / 1e6):.1f} MB"
