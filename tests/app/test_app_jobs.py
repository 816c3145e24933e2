"""The page without a browser: what it asks of the commands, what it keeps on disk, and whom it lets in."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from PIL import Image

from lamp_lightning.app import __main__ as command
from lamp_lightning.app import clips
from lamp_lightning.app.actions import Actions, check_gpu, models
from lamp_lightning.app.gate import LOCAL, Gate
from lamp_lightning.app.jobs import Job, Jobs
from lamp_lightning.app.progress import last_numbers, progress_of
from lamp_lightning.app.requests import Edit, Paint, Tune, recipe
from lamp_lightning.app.words import for_page
from lamp_lightning.app.workspace import Workspace
from lamp_lightning.data.video import write_mp4
from lamp_lightning.runtime.config import composed
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.locks import hold, in_folder
from lamp_lightning.runtime.names import TOY_MODELS
from lamp_lightning.toyworld import motion_set_scenes, render_clip

HOSTILE = ["it's", 'a "b"', "${oc.env:HOME}", "null", "a,b=[c]", "end\\", "\\'", "-m", "{x: 1}"]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.at(tmp_path / "studio")


def uploaded(workspace: Workspace, name: str, content: bytes) -> Path:
    file = workspace.root / "uploads" / name
    file.write_bytes(content)
    return file


# -- requests ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_reach_a_command_as_they_were_typed(tmp_path, text):
    tune = Tune(motion="tea", steps=3, every=1, prompt=text)
    paint = Paint(run="runs/tea/0001", prompt=text)
    edit = Edit(video="pictures/car.mp4", prompt=text, source_prompt=text, steps=3)
    found = []
    for request in (tune, paint, edit):
        _, overrides = request.call("0002", tmp_path)
        for word in overrides:
            override = OverridesParser.create().parse_override(word)
            key = override.get_key_element()
            if key in ("prompt", "source_prompt", "motion.prompts"):
                cfg = OmegaConf.create({"text": override.value()})
                found.append(OmegaConf.to_container(cfg, resolve=True)["text"])
    assert found == [[text], text, text, text]


def test_a_command_knows_all_that_the_page_asks_of_it(tmp_path):
    tune = Tune(motion="null", model="sd15", steps=3, frames=8, fps=12.5, every=1, picture="pictures/a.png")
    module, words = tune.call("0001", tmp_path)
    cfg = composed("train", [word for word in words if not word.startswith("hydra.")])
    assert module == "lamp_lightning.train"
    assert (cfg.motion.name, cfg.model.name, cfg.trainer.accelerator) == ("null", "sd15", "gpu")
    assert (cfg.data.num_frames, cfg.data.fps, cfg.trainer.max_steps) == (8, 12.5, 3)
    assert (cfg.samples.first_frame, cfg.data.folder) == ("pictures/a.png", "data/null")
    paint = Paint(run="runs/tea/0001", weight=0.7, second="runs/rain/0002", second_weight=0.5)
    _, words = paint.call("0003", tmp_path)
    assert "run=runs/tea/0001:0.7,runs/rain/0002:0.5" in words
    edit = Edit(video="pictures/car.mp4", prompt="a red car", steps=5)
    cfg = composed("edit", [w for w in edit.call("0004", tmp_path)[1] if not w.startswith("hydra.")])
    assert (cfg.video, cfg.trainer.max_steps) == ("pictures/car.mp4", 5)


def test_the_page_offers_models_that_it_can_tune_and_those_of_the_toy_world_without_a_gpu(tmp_path):
    offered = [name for _, name in models()]
    assert offered[:2] == ["tiny", "tiny_dit"]
    assert "sd15" in offered
    assert "ltx" not in offered  # it is tuned by another method
    for name in offered:
        _, words = Tune(motion="rain", model=name, steps=3, every=1).call("0001", tmp_path)
        assert ("trainer=gpu" in words) == (name not in TOY_MODELS)
    for name in TOY_MODELS:
        check_gpu(name)


def test_a_known_motion_brings_its_prompts_and_a_begun_run_goes_on(tmp_path):
    tune = Tune(motion="waterfall", steps=3, every=1)
    assert "motion=waterfall" in tune.call("0001", tmp_path)[1]
    folder = tmp_path / tune.folder("0001")
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    assert tune.call("0001", tmp_path)[1][0] == "resume=runs/waterfall/0001"
    assert recipe("tiny") == {"steps": 360, "edit_steps": 200, "every": 60, "height": 64, "width": 64}
    assert recipe("tiny_dit")["steps"] == composed("train", ["model=tiny_dit"]).trainer.max_steps


# -- the workspace -------------------------------------------------------------------------------------------


def test_names_stay_inside_and_a_taken_one_gets_a_number(workspace):
    assert workspace.new_motion("../../etc/Pouring tea!").name == "etc_pouring_tea"
    assert workspace.new_motion("etc pouring tea").name == "etc_pouring_tea_2"
    for outside in ("/etc/passwd", "../secret", "uploads/../../secret"):
        with pytest.raises(UserError, match="not there any more"):
            workspace.path(outside)
    (workspace.root / "uploads" / "link").symlink_to("/etc")
    with pytest.raises(UserError, match="not there any more"):
        workspace.path("uploads/link/passwd")


def test_a_photograph_is_kept_as_what_it_is_and_a_text_is_none(workspace):
    file = workspace.root / "uploads" / "x.html.jpg"
    Image.new("RGB", (8, 8), "red").save(file, format="PNG")
    kept = workspace.keep_picture(file)
    assert kept.startswith("pictures/x_html_")
    assert kept.endswith(".png")
    assert workspace.keep_picture(file) == kept
    with pytest.raises(UserError, match=r"^a\.png cannot be"):
        workspace.keep_picture(uploaded(workspace, "a.png", b"<script>alert(1)</script>"))


def test_clips_are_shown_as_the_model_sees_them_and_bad_ones_are_named(workspace):
    files = [
        write_mp4(workspace.root / "uploads" / f"Clip {k}.mp4", render_clip(scene, frames=4), fps=8)
        for k, scene in enumerate(motion_set_scenes("rain", 2))
    ]
    bad = uploaded(workspace, "text.mp4", b"no video\n" * 50)
    view = clips.View((64, 64), frames=6)
    seen = clips.take(workspace, [*files, bad], "Rain, at night", view)
    assert (seen.motion, len(seen.rows)) == ("rain_at_night", 2)
    assert seen.advice[0].startswith("text.mp4: not a video")
    assert any("Frames of a video: 4 fits all" in text for text in seen.advice)
    assert all(str(workspace.root) not in text for text in seen.advice)
    assert Image.open(workspace.root / seen.sheet).width > 300
    assert [clip.name for clip in workspace.clips("rain_at_night")] == ["clip_0.mp4", "clip_1.mp4"]
    assert clips.as_seen(workspace, "rain_at_night") == {"frames": 6, "fps": None}  # tuned so in any tab
    assert clips.as_seen(workspace, "another") == {}


def test_where_no_clip_can_be_used_nothing_is_made(workspace):
    view = clips.View((64, 64), frames=4)
    bad = uploaded(workspace, "text.mp4", b"no video\n" * 50)
    for files, name, said in (
        ([], "tea", "Drop some clips"),
        ([bad], "", "Give the motion a name"),
        ([bad], "tea", "not a video"),
        ([bad] * 100, "tea", "64 are the most"),
        ([uploaded(workspace, "a.exe", b"MZ")], "tea", "clips are mp4"),
        (["/etc/passwd"], "tea", "not there any more"),
    ):
        with pytest.raises(UserError, match=said) as error:
            clips.take(workspace, files, name, view)
        assert str(workspace.root) not in str(error.value)
    assert workspace.motions() == []
    assert list((workspace.root / "data").iterdir()) == []


def test_the_page_says_what_to_press_and_not_what_to_type(workspace):
    root = workspace.root
    for said, shown in (
        (f"{root}/data/1.mp4: no video. Run python -m lamp_lightning.train again.", "data/1.mp4: no video."),
        ("data.fps=12 reads all at one rate.", "Frames per second: 12 reads all at one rate."),
        ("Reverse it (ffmpeg -vf reverse).", "Reverse it with a video editor."),
        ("It diverged: no number; begin a new run with a lower tuner.learning_rate.",
         "It diverged: no number; tune again with other clips."),
        ("It cannot be found: give data.folder=<folder>.", "It cannot be found."),
        ("model.safetensors and data.mp4 are files.", "model.safetensors and data.mp4 are files."),
    ):  # fmt: skip
        assert for_page(said, root) == shown


def test_a_motion_that_is_not_tuned_to_its_end_is_marked_and_videos_differ_by_name(workspace):
    from safetensors.numpy import save_file

    empty = np.zeros(1, np.float32)
    for number, steps in (("0001", "360"), ("0002", "60")):
        run = workspace.root / "runs" / "tea" / number
        for place in ("videos", "samples/step_000020", "samples/step_000040"):
            (run / place).mkdir(parents=True)
            (run / place / "a_cup_seed0.mp4").touch()
        save_file({"w": empty}, run / "adapter.safetensors", {"steps": steps})
    (workspace.root / "runs" / "tea" / "0001" / "metrics.json").write_text("{}")
    jobs = Jobs(workspace)
    try:
        act = Actions(workspace, jobs)
        labels = [label for label, _ in act.run_choices()]
        assert labels == ["tea, number 1, 360 steps", "tea, number 2, unfinished, 60 steps so far"]
        assert "tea_unfinished.safetensors" in act.tuned("tea")
        assert "60 steps so far" in act.tuned("tea")
        videos = [label for label, _ in act.video_choices()]
        assert len(set(videos)) == 6
        assert any(label.startswith("a cup, seed 0 (tuned, number 2, step 40; ") for label in videos)
    finally:
        jobs.close()


def test_an_empty_page_says_what_to_do_first(workspace):
    jobs = Jobs(workspace)
    try:
        act = Actions(workspace, jobs)
        assert "Drop clips on the page Clips first" in act.tuned(None)
        assert "Press Tune" in act.tuned("tea")
        assert "the page Tune makes one" in act.made(Paint, None)
        assert "Drop a video" in act.made(Edit, None)
        assert "There are no videos yet" in act.pair(None, None)
        with pytest.raises(UserError, match=r"a number from 0\.1 to 1000"):
            act.draw("rain", "tiny", 16, "quick")
    finally:
        jobs.close()


@pytest.mark.parametrize(
    ("log", "share", "words"),
    [
        ("", 0.0, "tuned; making the videos"),
        ("Generating 2 videos of held-out prompts ...\ntea: generating 2/2, step 5/10\n", 0.75,
         "tuned; making video 2 of 2"),
        ("Generating 2 videos of held-out prompts ...\ntea: generating 2/2, step 10/10\n", 1.0,
         "tuned; looking at the videos"),
    ],
)  # fmt: skip
def test_the_last_videos_show_how_far_they_are(workspace, log, share, words):
    request = Tune(motion="tea", steps=3, every=1)
    job = Job(id="0001", request=request, state="running", asked=1.0)
    table = workspace.root / request.folder("0001") / "csv" / "metrics.csv"
    table.parent.mkdir(parents=True)
    table.write_text("step,train/loss\n2,0.5\n")
    (workspace.root / "jobs" / "0001.log").write_text(f"Tuning 'tea'\n{log}")
    jobs = Jobs(workspace)
    try:
        found = progress_of(job, jobs)
        assert (found.share, found.words) == (share, words)
    finally:
        jobs.close()


# -- jobs ----------------------------------------------------------------------------------------------------


def wait_until(there: Any, seconds: float = 110) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_jobs_run_one_after_the_other_and_a_fault_is_told_in_words(workspace):
    jobs = Jobs(workspace)
    try:
        first, second, third = (jobs.add(Tune(motion=name, steps=3, every=1)) for name in "abc")
        wait_until(lambda: jobs.get(first.id).state == "running")
        assert progress_of(jobs.get(second.id), jobs).words == "1 before it"
        assert progress_of(jobs.get(third.id), jobs).words == "2 before it"
        jobs.stop(third.id)
        assert jobs.get(third.id).state == "stopped"
        wait_until(lambda: jobs.get(second.id).state == "failed")
        assert jobs.get(first.id).message.startswith("data/a: this motion folder does not exist.")
        assert jobs.get(third.id).state == "stopped"
        jobs.go_on(third.id)
        jobs.stop(third.id)  # before or after it has begun
        wait_until(lambda: jobs.get(third.id).state in ("stopped", "failed"))
        jobs.forget(first.id)
        assert [job.id for job in jobs.all()] == [second.id, third.id]
        assert sorted(f.stem for f in (workspace.root / "jobs").glob("*.json")) == [second.id, third.id]
        assert jobs.add(Tune(motion="d", steps=3, every=1)).id == "0004"
    finally:
        jobs.close()


def test_a_new_server_finds_the_jobs_and_begins_none_by_itself(workspace, capsys):
    folder = workspace.root / "jobs"
    request = {"kind": "tune", "motion": "tea", "steps": 3, "frames": 8, "every": 1, "model": "tiny"}
    job = {"id": "0001", "request": request, "state": "running", "message": "", "asked": 1.0}
    bad = [
        {"id": "0002", "request": {**request, "motion": "../../etc"}},
        {"id": "0003", "request": {**request, "model": "tiny hydra.run.dir=/tmp"}},
        {"id": "0004", "request": {**request, "words": ["tuner._target_=os.system"]}},
        {"id": "0005", "request": {"kind": "paint", "run": "/etc/0001"}},
        {"id": "0009", "request": request},  # in the file of another number
    ]
    (folder / "0001.json").write_text(json.dumps(job))
    for number, other in enumerate(bad, 2):
        (folder / f"000{number}.json").write_text(json.dumps({**job, **other}))
    (folder / "0007.json").write_text("{")
    jobs = Jobs(workspace)
    try:
        assert [job.id for job in jobs.all()] == ["0001"]
        assert jobs.get("0001").state == "stopped"
        assert jobs.get("0001").message == "The server ended in between."
        assert json.loads((folder / "0001.json").read_text())["state"] == "stopped"
        assert capsys.readouterr().err.count("It is left out.") >= len(bad)
    finally:
        jobs.close()


def test_progress_is_read_from_the_last_whole_line(tmp_path):
    table = tmp_path / "metrics.csv"
    assert last_numbers(table) == {}
    table.write_text("step,train/loss,train/step_seconds\n0,0.5,1.5\n1,0.4,1.25\n2,0.")
    assert last_numbers(table)["train/step_seconds"] == 1.25
    assert last_numbers(table)["step"] in (1.0, 2.0)


# -- who is let in -------------------------------------------------------------------------------------------


def answer(gate: Gate, **headers: str) -> int:
    """The status that a gate gives to a request with these headers."""
    return answers(gate, **headers)["status"]


def answers(gate: Gate, **headers: str) -> Any:
    """The beginning of what a gate answers."""
    sent: list[Any] = []

    async def ask() -> None:
        async def send(message: Any) -> None:
            sent.append(message)

        pairs = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
        await gate({"type": "http", "headers": pairs}, None, send)  # type: ignore[arg-type]

    asyncio.run(ask())
    return sent[0]


async def welcome(scope: Any, receive: Any, send: Any) -> None:
    named = (b"content-disposition", b'inline; filename="adapter.safetensors"')
    await send({"type": "http.response.start", "status": 200, "headers": [named]})


def test_only_requests_of_the_page_itself_pass():
    gate = Gate(welcome, largest=1000, hosts=LOCAL)
    assert answer(gate, host="127.0.0.1:7860") == 200
    assert answer(gate, host="localhost:7860", origin="http://localhost:7860") == 200
    assert answer(gate, host="[::1]:7860") == 200
    assert answer(gate, host="evil.example:7860") == 421  # a name that leads to this machine
    assert answer(gate, host="127.0.0.1:7860", origin="http://evil.example") == 403
    assert answer(gate, host="127.0.0.1:7860", origin="null") == 403
    assert answer(gate, host="127.0.0.1:7860", content_length="1001") == 413
    assert answer(gate, host="127.0.0.1:7860", content_length="-5") == 413
    assert answer(Gate(welcome, largest=1000, hosts=None), host="studio.lan:7860") == 200


def test_nothing_is_loaded_from_elsewhere_and_downloads_are_called_as_their_links_say():
    headers = dict(answers(Gate(welcome, largest=1000, hosts=LOCAL), host="localhost")["headers"])
    assert headers[b"content-disposition"] == b"inline"
    assert headers[b"content-security-policy"].startswith(b"default-src 'self'")


def test_what_is_wrong_is_said_before_anything_is_served(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as missing:
        missing.setattr(command, "find_spec", lambda name: None)
        assert command.main([]) == 1
        assert "pip install -e '.[app]'" in capsys.readouterr().err
    assert command.main(["port=70000"]) == 1
    assert "port must be a whole number from 1 to 65,535" in capsys.readouterr().err
    pytest.importorskip("gradio", reason="the page needs Gradio: pip install -e '.[app]'")
    (tmp_path / "auth.txt").write_text("no colon")
    assert command.main(["auth=auth.txt"]) == 1
    assert "one line, <name>:<password>" in capsys.readouterr().err
    (tmp_path / "a_file").touch()
    assert command.main(["folder=a_file"]) == 1
    assert "Choose another with folder=<folder>" in capsys.readouterr().err


def test_a_page_that_is_open_to_a_network_says_so(workspace, capsys):
    pytest.importorskip("gradio", reason="the page needs Gradio: pip install -e '.[app]'")
    from lamp_lightning.app.server import say_where

    say_where(OmegaConf.create({"host": "127.0.0.1"}), workspace, "http://127.0.0.1:7860", False)
    assert capsys.readouterr().err == ""
    say_where(OmegaConf.create({"host": "0.0.0.0"}), workspace, "http://127.0.0.1:7860", False)
    assert "for other machines too, and asks nobody for a password" in capsys.readouterr().err


def test_a_folder_has_one_page(workspace):
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from lamp_lightning.runtime.locks import hold, in_folder\n"
        f"with hold(in_folder(Path({str(workspace.root)!r})), what='The folder'): pass"
    )
    with hold(in_folder(workspace.root), what="The folder"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Busy" in done.stderr
