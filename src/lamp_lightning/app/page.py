"""The layout of the page, and which action belongs to which button."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from lamp_lightning.app import markup
from lamp_lightning.app.actions import Actions, Choice, models, rate_of, steps_for
from lamp_lightning.app.jobs import Jobs
from lamp_lightning.app.requests import Edit, Paint
from lamp_lightning.app.workspace import Workspace, words_of
from lamp_lightning.data.clips import CLIP_SUFFIXES
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.toyworld import MOTIONS

PICTURES = [".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif"]
EVERY = 1.0  # seconds between two looks at what has changed
FIRST = (
    "Drop clips, name their motion, and press the button: you see them as the model will. Without clips, let "
    "eight be drawn."
)
SILENT: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
HIDDEN: dict[str, Any] = {"api_visibility": "private"}


def build(workspace: Workspace, jobs: Jobs) -> gr.Blocks:
    """The page of a workspace."""
    return Page(Actions(workspace, jobs)).blocks


class Page:
    """Its pieces, by the names that its actions use. What a tab chose stays in that tab."""

    def __init__(self, actions: Actions) -> None:
        self.actions = actions
        steps, every, edit_steps = steps_for("tiny")
        kept = (3600, 86_400)  # seconds between two looks for uploads that are older than a day
        with gr.Blocks(
            title="lamp-lightning", analytics_enabled=False, fill_width=True, delete_cache=kept
        ) as self.blocks:
            self.seen = gr.State({})
            self.mine = gr.State({})
            with gr.Row(elem_id="head"):
                gr.HTML(
                    '<div class="ll-title"><h1>lamp-lightning</h1>'
                    "<p>Learn a motion from a few clips. Let pictures move that way.</p></div>",
                    scale=3,
                    min_width=300,
                )
                self.model = gr.Dropdown(
                    models(), value="tiny", label="Model", elem_id="model", scale=1, min_width=260
                )
            self._work()
            with gr.Tabs(elem_id="tabs") as self.tabs:
                with gr.Tab("Clips", id="clips"):
                    self._clips()
                with gr.Tab("Tune", id="tune"):
                    self._tune(steps, every)
                with gr.Tab("Paint", id="paint"):
                    self._paint()
                with gr.Tab("Edit", id="edit"):
                    self._edit(edit_steps)
                with gr.Tab("Compare", id="compare"):
                    self._compare()
            choice: Any
            for choice in (self.job, self.motion, self.run, self.second, self.left, self.right):
                choice.preprocess = _any_text
            self._events()

    # -- layout ---------------------------------------------------------------------------------------------

    def _work(self) -> None:
        self.work = gr.HTML(elem_id="work")
        with gr.Row(elem_id="jobs"):
            self.job = gr.Dropdown(
                [], label="Work", show_label=False, container=False, scale=3, elem_id="job", visible=False
            )
            options: dict[str, Any] = {"size": "sm", "visible": False, "scale": 0, "min_width": 110}
            self.stop = gr.Button("Stop", elem_id="stop", **options)
            self.go_on = gr.Button("Go on", elem_id="go_on", variant="primary", **options)
            self.forget = gr.Button("Take off the list", elem_id="forget", **options)

    def _clips(self) -> None:
        with gr.Row():
            with gr.Column(min_width=300):
                self.files = gr.File(
                    label="Drop 8 to 16 clips of one motion",
                    file_count="multiple",
                    file_types=list(CLIP_SUFFIXES),
                    elem_id="files",
                    height=200,
                )
            with gr.Column(min_width=300):
                self.name = gr.Textbox(label="Name of the motion", placeholder="pouring tea", elem_id="name")
                self.frames = gr.Slider(
                    2, 32, value=16, step=1, label="Frames of a video", elem_id="frames", buttons=[]
                )
                self.fps = gr.Textbox(
                    label="Frames per second", placeholder="as in the files", elem_id="fps", max_lines=1
                )
        self.look = gr.Button("Show what the model will see", variant="primary", elem_id="look")
        with gr.Accordion("No clips at hand", open=False), gr.Row(equal_height=True):
            drawn = [(words_of(motion), motion) for motion in MOTIONS]
            self.drawn = gr.Dropdown(drawn, value="waterfall", label="Drawn motion", elem_id="drawn")
            self.draw = gr.Button("Draw 8 clips", elem_id="draw")
        self.clips = gr.HTML(markup.note(FIRST), elem_id="clips")

    def _tune(self, steps: int, every: int) -> None:
        with gr.Row():
            with gr.Column(min_width=300):
                self.motion = gr.Dropdown([], label="Motion", elem_id="motion")
                with gr.Row():
                    self.steps = gr.Number(steps, label="Steps", precision=0, minimum=1, elem_id="steps")
                    self.every = gr.Number(
                        every, label="Preview every", precision=0, minimum=1, elem_id="every"
                    )
                self.tune_prompt = gr.Textbox(
                    label="Prompt of the previews",
                    placeholder="as the motion is called",
                    elem_id="tune_prompt",
                )
            with gr.Column(min_width=300):
                self.tune_file, self.tune_picture, self.tune_given = self._photograph(
                    "Your picture for the previews (may stay empty)", "tune_picture"
                )
        self.tune = gr.Button("Tune", variant="primary", elem_id="tune")
        self.tune_said = gr.HTML(elem_id="tune_said")
        self.tuned = gr.HTML(elem_id="tuned")

    def _paint(self) -> None:
        with gr.Row():
            with gr.Column(min_width=300):
                self.run = gr.Dropdown([], label="Motion", elem_id="run")
                self.prompt = gr.Textbox(label="Prompt", placeholder="a red waterfall", elem_id="prompt")
                with gr.Row():
                    self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="seed")
                    self.count = gr.Number(
                        1, label="Videos", precision=0, minimum=1, maximum=8, elem_id="count"
                    )
                with gr.Accordion("Weight, and a second motion", open=False, elem_id="mix"):
                    self.weight = gr.Slider(
                        0, 2, value=1, step=0.05, label="Weight of the motion", buttons=[], elem_id="weight"
                    )
                    self.second = gr.Dropdown([], label="Second motion", elem_id="second")
                    self.second_weight = gr.Slider(
                        0, 2, value=0.5, step=0.05, label="Weight of the second", buttons=[]
                    )
            with gr.Column(min_width=300):
                self.paint_file, self.paint_picture, self.paint_given = self._photograph(
                    "A photograph to begin with (may stay empty)", "paint_picture"
                )
        self.paint = gr.Button("Paint", variant="primary", elem_id="paint")
        self.paint_said = gr.HTML(elem_id="paint_said")
        self.painted = gr.HTML(elem_id="painted")

    def _edit(self, steps: int) -> None:
        with gr.Row():
            with gr.Column(min_width=300):
                self.source_prompt = gr.Textbox(label="What it shows", placeholder="a car", elem_id="source")
                self.edit_prompt = gr.Textbox(
                    label="What it is to show", placeholder="a red car", elem_id="edit_prompt"
                )
                self.edit_steps = gr.Number(
                    steps, label="Steps", precision=0, minimum=1, elem_id="edit_steps"
                )
            with gr.Column(min_width=300):
                self.edit_file = gr.File(
                    label="Drop the video to edit",
                    file_types=list(CLIP_SUFFIXES),
                    height=140,
                    elem_id="edit_file",
                )
                self.edit_video = gr.State(None)
                self.edit_given = gr.HTML()
        self.edit = gr.Button("Edit", variant="primary", elem_id="edit")
        self.edit_said = gr.HTML(elem_id="edit_said")
        self.edited = gr.HTML(elem_id="edited")

    def _compare(self) -> None:
        with gr.Row():
            self.left = gr.Dropdown([], label="Left", elem_id="left", min_width=300)
            self.right = gr.Dropdown([], label="Right", elem_id="right", min_width=300)
        self.pair = gr.HTML()

    def _photograph(self, label: str, name: str) -> tuple[gr.File, gr.State, gr.HTML]:
        """Where a picture is dropped, where it is kept, and what shows it."""
        return gr.File(label=label, file_types=PICTURES, height=140, elem_id=name), gr.State(None), gr.HTML()

    # -- events ---------------------------------------------------------------------------------------------

    def _events(self) -> None:
        act = self.actions
        motion_made = [self.motion, self.clips]
        self.look.click(
            self._make_motion(act.take),
            [self.files, self.name, self.model, self.frames, self.fps],
            motion_made,
            **HIDDEN,
        )
        self.draw.click(
            self._make_motion(act.draw),
            [self.drawn, self.model, self.frames, self.fps],
            motion_made,
            **HIDDEN,
        )
        for file, kept, given in (
            (self.tune_file, self.tune_picture, self.tune_given),
            (self.paint_file, self.paint_picture, self.paint_given),
        ):
            file.change(_kept(act.picture), [file], [kept, given], **SILENT)
        self.edit_file.change(
            _kept(act.video), [self.edit_file], [self.edit_video, self.edit_given], **SILENT
        )
        self.model.change(steps_for, [self.model], [self.steps, self.every, self.edit_steps], **SILENT)
        self.tune.click(
            self._on_tune,
            [
                self.motion,
                self.model,
                self.steps,
                self.frames,
                self.fps,
                self.every,
                self.tune_prompt,
                self.tune_picture,
            ],
            [self.tune_said],
            **SILENT,
        )
        self.paint.click(
            self._on_paint,
            [self.mine, self.run, self.second, self.weight, self.second_weight, self.prompt,
             self.paint_picture, self.seed, self.count],
            [self.mine, self.paint_said],
            **SILENT,
        )  # fmt: skip
        self.edit.click(
            self._on_edit,
            [self.mine, self.edit_video, self.model, self.source_prompt, self.edit_prompt, self.edit_steps],
            [self.mine, self.edit_said],
            **SILENT,
        )
        for button, do in (
            (self.stop, act.jobs.stop), (self.go_on, act.jobs.go_on), (self.forget, act.jobs.forget),
        ):  # fmt: skip
            button.click(_on_job(do), [self.job], None, **SILENT)
        live = [
            self.seen, self.work, self.job, self.stop, self.go_on, self.forget, self.motion, self.run,
            self.second, self.left, self.right, self.tuned, self.painted, self.edited,
            self.pair,
        ]  # fmt: skip
        told = [self.seen, self.mine, self.job, self.motion, self.run, self.left, self.right]
        tick = gr.Timer(EVERY)
        tick.tick(self.refresh, told, live, queue=False, **SILENT)
        self.blocks.load(self.refresh, told, live, queue=False, **SILENT)

    def refresh(
        self,
        seen: dict[str, Any],
        mine: dict[str, str],
        job: str | None,
        motion: str | None,
        run: str | None,
        left: str | None,
        right: str | None,
    ) -> list[Any]:
        """What has changed since the last look. What a tab has chosen stays."""
        act = self.actions
        jobs, motions, runs, videos = (
            act.job_choices(), act.motion_choices(), act.run_choices(), act.video_choices(),
        )  # fmt: skip
        motion, job = _kept_choice(motion, motions), _kept_choice(job, jobs)
        left, right = _kept_choice(left, videos), _kept_choice(right, videos[1:] or videos, among=videos)
        chosen = act.jobs.get(job)
        ended = chosen is not None and chosen.state in ("stopped", "failed")
        now: dict[str, Any] = {
            "work": markup.work(act.jobs),
            "job": (jobs, job, len(jobs) > 1),
            "stop": chosen is not None and not ended,
            "go_on": ended,
            "forget": ended,
            "motion": (motions, motion),
            "run": (runs, _kept_choice(run, runs)),
            "second": ([("none", ""), *runs],),
            "left": (videos, left),
            "right": (videos, right),
            "tuned": act.tuned(motion),
            "painted": act.made(Paint, mine.get("paint")),
            "edited": act.made(Edit, mine.get("edit")),
            "pair": act.pair(left, right),
        }
        updates = []
        for name, value in now.items():
            if seen.get(name) == value:
                updates.append(gr.skip())
            elif isinstance(value, tuple):
                keys = ("choices", "value", "visible")
                updates.append(gr.update(**dict(zip(keys, value, strict=False))))
            elif isinstance(value, bool):
                updates.append(gr.update(visible=value))
            else:
                updates.append(value)
        return [now if now != seen else gr.skip(), *updates]

    def _make_motion(self, make: Callable[..., tuple[str, str]]) -> Callable[..., Any]:
        def on_click(*values: Any) -> tuple[Any, str]:
            try:
                motion, shown = make(*values)
            except UserError as error:
                return gr.skip(), markup.note(str(error), "fault")
            return gr.update(choices=self.actions.motion_choices(), value=motion), shown

        return on_click

    def _on_tune(self, motion: Any, model: str, steps: Any, frames: Any, fps: Any, *more: Any) -> str:
        values = {"steps": steps, "frames": int(frames or 0)}
        values |= dict(zip(("every", "prompt", "picture"), more, strict=True))
        return _said(lambda: self.actions.tune(motion, model, fps=rate_of(fps), **values))[1]

    def _on_paint(
        self, mine: Any, run: Any, second: Any, weight: Any, other: Any, prompt: str, picture: Any, seed: Any,
        count: Any,
    ) -> tuple[Any, str]:  # fmt: skip
        values = {"weight": weight, "second_weight": other, "prompt": prompt, "picture": picture}
        values |= {"seed": seed, "count": int(count or 0)}
        number, said = _said(lambda: self.actions.paint(run, second, **values))
        return ({**mine, "paint": number} if number else gr.skip()), said

    def _on_edit(
        self, mine: Any, video: Any, model: str, source: str, prompt: str, steps: Any
    ) -> tuple[Any, str]:
        values = {"source_prompt": source, "prompt": prompt, "steps": steps}
        number, said = _said(lambda: self.actions.edit(video, model, **values))
        return ({**mine, "edit": number} if number else gr.skip()), said


def _any_text(value: Any) -> str | None:
    """A choice as it comes. A tab that outlived its server has choices that the new one did not offer it."""
    return value if isinstance(value, str) else None


def _said(ask: Callable[[], Any]) -> tuple[str | None, str]:
    """The number of the job that was asked for, and what to say."""
    try:
        return ask().id, ""
    except UserError as error:
        return None, markup.note(str(error), "fault")


def _kept(keep: Callable[[str | None], tuple[str | None, str]]) -> Callable[[Any], tuple[str | None, str]]:
    def on_change(file: Any) -> tuple[str | None, str]:
        try:
            return keep(file)
        except UserError as error:
            return None, markup.note(str(error), "fault")

    return on_change


def _on_job(do: Callable[[str], None]) -> Callable[[Any], None]:
    def on_click(number: Any) -> None:
        if isinstance(number, str):
            do(number)

    return on_click


def _kept_choice(chosen: Any, choices: list[Choice], among: list[Choice] | None = None) -> str | None:
    """What is chosen, if it is still there, else the first of the choices."""
    if chosen in [value for _, value in (among or choices)]:
        return chosen
    return choices[0][1] if choices else None
