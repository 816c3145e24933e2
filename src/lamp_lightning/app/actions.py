"""What the page does when something is dropped, chosen or pressed. Nothing here knows of Gradio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamp_lightning.app import clips, markup
from lamp_lightning.app.jobs import Job, Jobs
from lamp_lightning.app.requests import Edit, Paint, Request, Tune, recipe
from lamp_lightning.app.titles import is_wall, run_label, run_state, step_of, title_of
from lamp_lightning.app.titles import shown as shown_by
from lamp_lightning.app.words import for_page
from lamp_lightning.app.workspace import Workspace, words_of
from lamp_lightning.runtime.config import options
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.names import TOY_MODELS
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
BY_COMMAND = ("ltx",)  # a model of clips, which has a method of its own
# What to do about a diagnosis, on this page.
PRESS = {
    "static": (
        "See on the page Clips whether the clips move. Tune for more steps, or paint with a higher weight."
    ),
    "exploding": (
        "Tune for more steps if there were few. See on the page Clips whether clips have cuts. Paint with a "
        "lower weight."
    ),
    "overfitted": (
        "Tune for fewer steps: the previews show at which it was best. More clips, or more varied ones, help."
    ),
}
Choice = tuple[str, str]  # what is shown, and what it stands for


def models() -> list[Choice]:
    """The text-to-image models of the config group, those of the toy world first."""
    names = [name for name in options("model") if name not in BY_COMMAND]
    names.sort(key=lambda name: (name not in TOY_MODELS, name))
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
        check_gpu(model)
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
        check_gpu(model)
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
        """Previews, videos and the adapter of a motion's newest run; without one, what to do first."""
        if motion is None:
            return markup.note(
                "There is no motion yet. Drop clips on the page Clips first, or let eight be drawn there."
            )
        asked = [job for job in self.jobs.all() if isinstance(job.request, Tune)]
        asked = [job for job in asked if job.request.motion == motion]  # type: ignore[union-attr]
        runs = [int(run.name) for run in self.workspace.runs(motion)]
        newest = max([*runs, *(int(job.id) for job in asked)], default=None)
        if newest is None:
            return markup.note("Press Tune. Previews, what came of it, and the motion as a file come here.")
        job = self.jobs.get(f"{newest:04d}")
        run = self.workspace.root / "runs" / motion / f"{newest:04d}"
        said = _diagnosis(run / "metrics.json", self.workspace.root)
        shown = [*([] if job is None else [markup.doubts(job, self.jobs)]), markup.diagnosis(said)]
        adapter = run / "adapter.safetensors"
        if adapter.is_file():
            tuned = self.workspace.tuned_in(run)
            name = f"{motion}.safetensors" if tuned.finished else f"{motion}_unfinished.safetensors"
            link = markup.link(adapter, "Download the motion", name)
            state = "tuned for " * tuned.finished + run_state(tuned)
            shown.append(f'<p class="ll-note" id="adapter">{link} ({_size_of(adapter)}, {state})</p>')
            if tuned.finished:
                shown.append(markup.note("Next: the page Paint makes videos with it."))
        final = sorted(run.glob("videos/*.mp4"))
        previews = sorted(run.glob("samples/step_*/*.mp4"))[-PREVIEWS:]
        if final:
            shown.append(markup.row(markup.video(file, shown_by(file)) for file in final))
        if previews:
            steps = [(file, step_of(file)) for file in previews]
            shown.append(markup.row(markup.video(f, step, download=False) for f, step in reversed(steps)))
        return "".join(shown) or markup.note("Previews come here while it is tuned.")

    def made(self, kind: type[Paint] | type[Edit], mine: str | None) -> str:
        """What a tab asked for last; of a page that was opened anew, what was made last."""
        job = self.jobs.get(mine)
        if job is None:
            done = [job for job in self.jobs.all() if isinstance(job.request, kind)]
            job = next((job for job in reversed(done) if job.state == "finished"), None)
        if job is None:
            return self._before(kind)
        folder = self.workspace.root / job.request.folder(job.id)
        if isinstance(job.request, Paint):
            shown = [markup.video(file, shown_by(file)) for file in sorted(folder.glob("*.mp4"), key=is_wall)]
            return markup.row(shown) + markup.doubts(job, self.jobs)
        edited = sorted(folder.glob("videos/*/edit.mp4"))
        source = self.workspace.root / job.request.video  # type: ignore[union-attr]
        if not edited or not source.exists():
            return markup.doubts(job, self.jobs)
        pair = [markup.video(source, "before", download=False)]
        pair += [markup.video(file, job.request.prompt) for file in edited]  # type: ignore[union-attr]
        return f'<div class="ll-pair">{markup.row(pair)}</div>{markup.doubts(job, self.jobs)}'

    def _before(self, kind: type[Paint] | type[Edit]) -> str:
        """What to do first, where nothing was made yet."""
        if kind is Edit:
            return markup.note(
                "Drop a video of a few seconds, say what it shows and what it is to show, and press Edit. "
                "The motion of the video stays, and it gets another look."
            )
        if not self.workspace.tuned():
            return markup.note("No motion is tuned yet: the page Tune makes one.")
        return markup.note("Say what the videos are to show, or drop a photograph, and press Paint.")

    def pair(self, *chosen: str | None) -> str:
        """Videos side by side."""
        known = {name: label for label, name in self.video_choices()}
        shown = [(name, known[name]) for name in chosen if name in known]
        pieces = [markup.video(self.workspace.path(name), label) for name, label in shown]
        if not pieces:
            return markup.note("There are no videos yet: the pages Tune, Paint and Edit make some.")
        return f'<div class="ll-pair" id="pair">{markup.row(pieces)}</div>'

    def motion_choices(self) -> list[Choice]:
        """Motions that have clips."""
        return [(words_of(name), name) for name in self.workspace.motions()]

    def run_choices(self) -> list[Choice]:
        """Motions that are tuned; those that are not finished are marked."""
        return [(run_label(tuned), tuned.run) for tuned in self.workspace.tuned()]

    def video_choices(self) -> list[Choice]:
        """Videos that were made, each with a name of its own."""
        root = self.workspace.root
        found = self.workspace.videos()[:LISTED]
        return [(title_of(file, root).full, self.workspace.relative(file)) for file in found]

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
    suits = recipe(model)
    return clips.View((suits["height"], suits["width"]), int(frames), rate_of(fps), model)


def rate_of(typed: Any) -> float | None:
    """Frames per second as they were typed; None where nothing was. UserError where that is no rate."""
    text = str(typed or "").strip().replace(",", ".")
    if not text:
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0.1 <= rate <= 1000:
        raise UserError("Frames per second are a number from 0.1 to 1000. Empty takes those of the files.")
    return rate


def check_gpu(model: str) -> None:
    """UserError where a model needs a GPU that is not there: before gigabytes of it are downloaded."""
    if model in TOY_MODELS:
        return
    import torch

    if not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise UserError(
            f"{MODELS.get(model, model)} needs a GPU, and PyTorch finds none on this computer. Choose the "
            "tiny model above, or start the page on a computer with a GPU."
        )


def _diagnosis(file: Path, root: Path) -> list[str]:
    """What a finished run says came of tuning: the verdict, and sentences, with what to press."""
    try:
        found = read_json(file, what="the metrics of a run")["diagnosis"]
        verdict, said = str(found["verdict"]), [str(found[key]) for key in ("reason", "best") if found[key]]
    except (UserError, KeyError, TypeError, AttributeError):
        return []
    said = [for_page(text, root)[:600] for text in said]
    return [verdict, *said, *([PRESS[verdict]] if verdict in PRESS else [])]


def _size_of(file: Path) -> str:
    size = file.stat().st_size
    return f"{size / 1e9:.1f} GB" if size > 1e9 else f"{max(0.1, size / 1e6):.1f} MB"
