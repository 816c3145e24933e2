"""``python -m lamp_lightning.evaluate`` on folders: every kind of video, prompts, truth, what is broken."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from lamp_lightning.data.video import write_frames, write_gif, write_mp4, write_webp
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.evaluate import __main__ as evaluate
from lamp_lightning.evaluate.videos import VideoReader, list_videos, read_prompts
from lamp_lightning.metrics import MEASURES, evaluate_videos, load_clip
from lamp_lightning.runtime.files import file_sha256
from lamp_lightning.sample.record import FORMAT
from lamp_lightning.toyworld import Scene, held_out_scenes, motion_set_scenes, render_clip
from wandb_files import read_finished

PROMPT = "a red horse runs on the meadow"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def horse() -> np.ndarray:
    return render_clip(Scene("horse_run", "red", "meadow", "flat", 1), frames=8)


def write_other(path: Path, frames: np.ndarray, codec: str) -> None:
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=8)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        for frame in frames:
            out.mux(
                stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p"))
            )
        out.mux(stream.encode(None))


def run(*words: str, status: int = 0) -> dict:
    """What the command wrote, in the folder that ``out=`` names, or ``videos/evaluation``."""
    assert evaluate.main(["clip=tiny", "threads=1", *words]) == status
    given = [word.removeprefix("out=") for word in words if word.startswith("out=")]
    return json.loads((Path(given[0] if given else "videos/evaluation") / "metrics.json").read_text())


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert evaluate.main(["clip=tiny", "threads=1", *words]) == 1
    return " ".join(capsys.readouterr().err.split())


def test_every_kind_of_video_in_any_size_and_length_has_nearly_the_same_numbers(horse) -> None:
    folder = Path("videos")
    write_mp4(folder / "a_mp4.mp4", horse, fps=8)
    write_gif(folder / "b_gif.gif", horse, fps=8)
    write_webp(folder / "c_webp.webp", horse, fps=8)
    write_frames(folder / "d_png_frames", horse)
    write_other(folder / "e_avi.avi", horse, "mpeg4")
    write_other(folder / "f_mov.mov", horse, "libx264")
    write_mp4(folder / "g_large.mp4", horse[:6].repeat(10, 1).repeat(10, 2), fps=24)
    write_mp4(folder / "h_wide.mp4", np.pad(horse, ((0, 0), (0, 0), (16, 16), (0, 0)), "edge"), fps=8)
    (folder / ".hidden.mp4").write_bytes(b"nothing")
    (folder / "notes.md").write_text("not a video")
    found = run(f"folder={folder}")
    assert [video["file"][0] for video in found["videos"]] == list("abcdefgh")
    assert [video["frames"] for video in found["videos"]] == [8] * 6 + [6, 8]
    assert found["videos"][0]["prompt"] == "a mp4"
    exact = evaluate_videos([horse], clip=load_clip("tiny"))
    for video in found["videos"]:
        for name in ("frame_consistency", "motion_amount"):
            assert video[name] == pytest.approx(exact[name], rel=0.5), (video["file"], name)
        assert video["warping_error"] == pytest.approx(exact["warping_error"], abs=1.5)
    png = found["videos"][3]
    for name, value in exact["videos"][0].items():
        assert png[name] == pytest.approx(value, rel=1e-4), name


def test_table_prompts_and_means(horse, capsys) -> None:
    other = render_clip(Scene("rain", "blue", "moon", "neon", 2), frames=8)
    write_mp4("videos/a_red_horse_runs_on_the_meadow_seed3.mp4", horse)
    write_gif("videos/a_red_horse_runs_on_the_meadow_seed3.gif", horse)
    write_mp4("videos/blue_rain.mp4", other)
    found = run("folder=videos")
    assert [video["prompt"] for video in found["videos"]] == [PROMPT, "blue rain"]
    assert found["count"] == 2
    singles = [video["clip_score"] for video in found["videos"]]
    assert found["clip_score"] == pytest.approx(np.mean(singles))
    assert "diversity" in found
    assert "motion_fidelity" not in found
    table = Path("videos/evaluation/table.md").read_text()
    assert "CLIP score ↑" in table
    assert "warping error (%) ↓" in table
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == [
        "a_red_horse_runs_on_the_meadow_seed3.mp4", "blue_rain.mp4", "**all**"
    ]  # fmt: skip
    assert f"{found['clip_score']:.2f}" in rows[-1]
    printed = capsys.readouterr().out
    assert re.search(r"CLIP score ↑ +" + f"{found['clip_score']:.2f}", printed)
    assert "videos/evaluation/table.md" in printed


def test_evaluating_twice_gives_the_same_numbers(horse) -> None:
    write_mp4("videos/horse.mp4", horse)
    Path("clips").mkdir()
    shutil.copy("videos/horse.mp4", "clips/1.mp4")  # a second encoding may differ by a rounding
    words = ["folder=videos", "reference=clips", "first_frames=pictures", "truth=clips_true", "fid=clip"]
    write_mp4("clips_true/horse.mp4", horse)
    write_frames("pictures", horse[:1])
    Path("pictures/0000.png").rename("pictures/horse.png")
    first = run(*words)
    assert run(*words) == first
    assert run(*words, "out=elsewhere") == first
    assert {name for name, m in MEASURES.items() if m.frames <= 8} - {"diversity", "fvd"} <= set(first)
    assert first["motion_fidelity"] > 0.99
    assert first["moving_error_ratio"] < 0.05
    assert first["first_frame_fidelity"] > 0.8


def test_a_broken_video_is_named_and_the_rest_is_measured(horse, capsys) -> None:
    write_mp4("videos/good_horse.mp4", horse)
    whole = Path("videos/good_horse.mp4").read_bytes()
    Path("videos/cut.mp4").write_bytes(whole[: len(whole) // 2])
    Path("videos/text.gif").write_text("no video at all")
    Path("videos/odd.webp").write_bytes(b"RIFF\0\0\0\0WEBPxxxx")
    write_frames("videos/mixed", horse[:2])
    write_frames("more", horse[:1, ::2, ::2])
    Path("more/0000.png").rename("videos/mixed/0002.png")
    found = run("folder=videos", status=3)
    assert [video["file"] for video in found["videos"]] == ["good_horse.mp4"]
    reasons = {each["file"]: each["reason"] for each in found["left_out"]}
    assert set(reasons) == {"cut.mp4", "text.gif", "odd.webp", "mixed"}
    assert "header announces" in reasons["cut.mp4"]
    assert "plain text" in reasons["text.gif"]
    assert "0002.png has 32x32 pixels, but the first frame 64x64" in reasons["mixed"]
    assert "left out: cut.mp4" in capsys.readouterr().err
    assert "- cut.mp4: " in Path("videos/evaluation/table.md").read_text()


def test_a_folder_without_videos_or_with_none_that_can_be_read(tmp_path, capsys) -> None:
    assert "folder=nowhere does not exist" in fails(capsys, "folder=nowhere")
    Path("empty").mkdir()
    assert "folder=empty: no video here, found nothing" in fails(capsys, "folder=empty")
    Path("empty/notes.txt").write_text("x")
    assert "found only notes.txt" in fails(capsys, "folder=empty")
    Path("empty/a_horse.mp4").write_bytes(b"")
    message = fails(capsys, "folder=empty")
    assert "None of the 1 videos of empty can be read" in message
    assert "a_horse.mp4: not a video, found an empty file (0 bytes)" in message


def test_videos_whose_names_are_numbers_have_no_clip_score_and_the_command_says_so(horse, capsys) -> None:
    write_mp4("videos/0001.mp4", horse)
    write_mp4("videos/a_horse.mp4", horse)
    found = run("folder=videos")
    assert "Warning: 0001.mp4 has no prompt" in capsys.readouterr().err
    number, named = found["videos"]
    assert number["prompt"] is None
    assert "clip_score" not in number
    assert "frame_consistency" in number
    assert found["clip_score"] == named["clip_score"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "first prompt\nsecond: with colon\n"),
        ("p.txt", "10.mp4: second: with colon\n2.mp4: first prompt\n"),
        ("p.txt", "2\tfirst prompt\n10\tsecond: with colon\n"),
        ("p.json", '["first prompt", "second: with colon"]'),
        ("p.json", '{"2": "first prompt", "10.mp4": "second: with colon", "other.mp4": "more"}'),
        ("p.csv", "video,prompt\n2.mp4,first prompt\n10.mp4,second: with colon\n"),
    ],
)
def test_prompts_come_from_a_file(name: str, text: str) -> None:
    Path(name).write_text(text)
    paths = [Path("2.mp4"), Path("10.mp4")]
    assert read_prompts(Path(name), paths) == ["first prompt", "second: with colon"]


def test_videos_are_in_natural_order_whatever_digits_their_names_have() -> None:
    Path("videos").mkdir()
    for name in ("10.mp4", "2.mp4", "\N{SUPERSCRIPT TWO}1.mp4"):
        Path("videos", name).write_bytes(b"")
    assert [path.name for path in list_videos(Path("videos"))][:2] == ["2.mp4", "10.mp4"]


def test_one_prompt_for_all_and_files_that_do_not_fit(horse, capsys) -> None:
    write_mp4("videos/1.mp4", horse)
    write_mp4("videos/2.mp4", horse)
    Path("p.txt").write_text(PROMPT)
    assert [v["prompt"] for v in run("folder=videos", "prompts=p.txt")["videos"]] == [PROMPT] * 2
    for text, name, message in (
        ("a\nb\nc\n", "p.txt", "p.txt: found 3 prompts for 2 videos"),
        ("1.mp4: a\n3.mp4: b\n", "p.txt", "has no prompt for 2.mp4"),
        ("", "p.txt", "p.txt: this prompt file is empty"),
        ('{"1": 2, "2": "b"}', "p.json", "write a text, a list of texts, or an object"),
        ('{"1": ', "p.json", "not valid JSON"),
        ('["a", ""]', "p.json", "found an empty prompt"),
        ("1.mp4: a\nb\n", "p.txt", "some lines begin with a video's name, but not 'b'"),
        ("1.mp4\n", "p.csv", "each row needs two columns"),
    ):
        Path(name).write_text(text)
        assert message in fails(capsys, "folder=videos", f"prompts={name}")
    assert "prompts=gone.txt does not exist" in fails(capsys, "folder=videos", "prompts=gone.txt")


def test_the_true_motion_ranks_above_others_by_the_command() -> None:
    """The videos that the metrics' own tests rank, through files and the command."""
    true = render_clip(held_out_scenes("rain", 1)[0], frames=16)
    other = render_clip(held_out_scenes("horse_run", 1)[0], frames=16)
    order = np.random.default_rng(1).permutation(16)
    videos = {
        "true": true,
        "shuffled": np.concatenate([true[:1], true[order]])[:16],
        "frozen": true[:1].repeat(16, 0),
        "other": other,
        "noise": np.random.default_rng(0).integers(0, 256, true.shape, dtype=np.uint8),
    }
    for name, video in videos.items():
        write_frames(f"videos/{name}", video)
        write_frames(f"truth/{name}", true)
        write_frames("pictures", true[:1])
        Path("pictures/0000.png").rename(f"pictures/{name}.png")
    for k, scene in enumerate(motion_set_scenes("rain", 4)):
        write_frames(f"clips/{k}", render_clip(scene, frames=16))
    Path("p.txt").write_text(held_out_scenes("rain", 1)[0].caption)
    words = ["reference=clips", "truth=truth", "first_frames=pictures", "prompts=p.txt"]
    found = {video["file"]: video for video in run("folder=videos", *words)["videos"]}
    assert set(found) == set(videos)

    def best(name: str, *among: str) -> bool:
        sign = 1 if MEASURES[name].better == "higher" else -1
        return all(sign * found["true"][name] > sign * found[each][name] for each in among)

    assert best("motion_fidelity", "shuffled", "frozen", "other", "noise")
    assert best("moving_error", "shuffled", "frozen", "other", "noise")
    assert best("clip_score", "other", "noise")
    assert best("first_frame_fidelity", "other", "noise")
    assert best("first_frame_error", "other", "noise")
    assert best("warping_error", "shuffled", "noise")
    assert best("flow_angle", "frozen", "other")
    assert found["frozen"]["motion_fidelity"] == found["frozen"]["motion_amount"] == 0
    assert found["frozen"]["moving_error_ratio"] == pytest.approx(1)


def test_companions_that_are_missing_are_named(horse, capsys) -> None:
    for name in ("a", "b"):
        write_mp4(f"videos/{name}.mp4", horse)
    write_mp4("truth/a.mp4", horse[:5])
    found = run("folder=videos", "truth=truth", status=3)
    assert found["left_out"] == [{"file": "b.mp4", "reason": "nothing of that name in truth=truth"}]
    assert "moving_error" in found["videos"][0]
    assert "moving_error" not in found["videos"][1]
    Path("truth/a.mp4").rename("truth/c.mp4")
    assert "nothing here is called like a video: there is 'c'" in fails(
        capsys, "folder=videos", "truth=truth"
    )
    assert "first_frames=gone does not exist" in fails(capsys, "folder=videos", "first_frames=gone")
    assert "reference=gone does not exist" in fails(capsys, "folder=videos", "reference=gone")
    assert "name their folder with reference=" in fails(capsys, "folder=videos", "fid=clip")


def test_records_of_the_sample_command_say_prompt_size_and_first_frame(horse) -> None:
    write_frames("picture", horse[:1])
    picture = Path("picture/0000.png")
    for k in range(2):
        write_mp4(f"videos/v_seed{k}.mp4", horse, min_size=256)
        record = {
            "format": FORMAT,
            "finished": False,
            "prompt": PROMPT,
            "negative_prompt": None,
            "seed": k,
            "first_frame": {"file": str(picture.absolute()), "sha256": file_sha256(picture), "fit": "crop"},
            "sampler": Sampler(size=(64, 64)).settings(),
            "precision": "32-true",
            "motions": [{"file": "a.safetensors", "sha256": "0" * 64, "motion": "run", "weight": 1.0}],
            "base": {"model": "tiny", "config": None, "variant": None, "dtype": "float32"},
            "painter": None,
            "words": {"run": ["a.safetensors:1.0"]},
        }
        Path(f"videos/v_seed{k}.json").write_text(json.dumps(record))
    write_mp4("videos/v_and_1_more.mp4", np.concatenate([horse, horse], axis=2))
    found = run("folder=videos")
    assert [video["file"] for video in found["videos"]] == ["v_seed0.mp4", "v_seed1.mp4"]
    assert found["videos"][0]["prompt"] == PROMPT
    assert found["first_frame_fidelity"] > 0.8
    assert found["first_frame_error"] < 2
    with VideoReader() as reader:
        assert reader.read(Path("videos/v_seed0.mp4"), (64, 64)).shape == (8, 64, 64, 3)
        assert reader.read(Path("videos/v_seed0.mp4")).shape == (8, 256, 256, 3)


def test_num_frames_and_single_videos(horse) -> None:
    write_mp4("videos/a_horse.mp4", horse)
    assert run("folder=videos", "num_frames=5")["videos"][0]["frames"] == 5
    assert run("folder=videos/a_horse.mp4", "clip=null")["count"] == 1
    write_frames("frames", horse)
    assert list_videos(Path("frames")) == [Path("frames")]
    assert "clip_score" not in run("folder=frames", "clip=null", "out=here")


def test_fvd_takes_a_torchscript_file_and_is_called_unreliable_for_few_videos(horse, capsys) -> None:
    class Movement(torch.nn.Module):
        def forward(self, pixels: torch.Tensor, power: float = 1.0) -> torch.Tensor:
            return pixels.diff(dim=2).abs().mean((3, 4)).flatten(1)[:, :3] ** power

    torch.jit.script(Movement()).save("movement.pt")
    for k in range(2):
        write_mp4(f"videos/{k}_horse.mp4", np.roll(horse, 5 * k, axis=1))
    words = ["folder=videos", "reference=videos", "fvd=movement.pt", "clip=null"]
    assert run(*words)["fvd"] == pytest.approx(0, abs=1e-3)
    assert "FVD is unreliable here: 2 videos are too few for 3 features" in capsys.readouterr().err
    message = fails(capsys, *words, "fvd_arguments={rescale: true}")
    assert "fvd=movement.pt cannot take videos, a tensor of shape (1, 3, 8, 64, 64)" in message
    assert "fvd_arguments" in message
    assert "there is no such file" in fails(capsys, "folder=videos", "reference=videos", "fvd=gone.pt")


def test_settings_are_checked(capsys) -> None:
    assert "Give one of run=" in fails(capsys)
    assert "not run= and folder=" in fails(capsys, "run=a", "folder=b")
    assert "truth= belongs to a folder of videos" in fails(capsys, "run=a", "truth=b")
    assert "num_frames must be a whole number" in fails(capsys, "folder=a", "num_frames=1")
    assert "decode_timeout must be" in fails(capsys, "folder=a", "decode_timeout=0")
    assert "fid_arguments must be arguments" in fails(capsys, "folder=a", "fid_arguments=3")


def test_wandb_gets_the_numbers_and_a_table(horse) -> None:
    write_mp4("videos/a_red_horse.mp4", horse)
    found = run("folder=videos", "logger=wandb")
    (file,) = Path("videos/evaluation").rglob("offline-run-*/*.wandb")
    logged = read_finished(file)
    assert logged.summary["metrics/clip_score"] == pytest.approx(found["clip_score"])
    media = {key: value for row in logged.history for key, value in row.items()}
    assert media["evaluation._type"] == "table-file"
    assert media["evaluation.nrows"] == 1
