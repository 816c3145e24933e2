"""What a run leaves in Weights & Biases, read back from the offline files."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamp_lightning.train.__main__ import main
from wandb_files import WandbRun, read_finished


def runs_below(folder: Path) -> list[WandbRun]:
    return [read_finished(file) for file in sorted(folder.rglob("offline-run-*/*.wandb"))]


def test_every_job_of_a_sweep_is_its_own_offline_run_in_one_group(small, tmp_path):
    status = main(["-m", "motion=rain,waterfall", "sampler.shared_noise=0,0.2", *small])
    assert status == 0
    runs = runs_below(tmp_path / "multirun")
    assert len(runs) == 4
    assert len({run.id for run in runs}) == 4
    assert len({run.name for run in runs}) == 4
    sweep = next((tmp_path / "multirun").iterdir()).name
    assert {run.group for run in runs} == {sweep}
    jobs = {(run.config["motion"]["name"], run.config["sampler"]["shared_noise"]) for run in runs}
    assert jobs == {("rain", 0), ("rain", 0.2), ("waterfall", 0), ("waterfall", 0.2)}
    for run in runs:
        assert run.exit_code == 0, "a job was not closed before the next began"
        assert {"train/loss", "train/learning_rate", "train/step_seconds", "memory/process_gib"} <= run.keys()
        assert {"metrics/clip_score", "metrics/frame_consistency", "metrics/motion_amount"} <= run.keys()
        assert len([row for row in run.history if "train/loss" in row]) == 2
        assert "motion-adapter" in run.artifacts


def test_videos_have_captions_and_files(small, tmp_path):
    words = ["motion=waterfall", "motion.prompts=[a red lake]", "hydra.run.dir=run", *small]
    assert main([*words, "data.validation=0.25", "trainer.val_check_interval=1"]) == 0
    (run,) = runs_below(tmp_path / "run")
    assert [row["trainer/global_step"] for row in run.history if "val/loss" in row] == [1, 2]
    assert run.config["data"]["validation"] == "0.25"
    assert "learning_rate" not in run.config  # it is in run.config["tuner"], once
    media = {key: value for row in run.history for key, value in row.items() if key.startswith("videos/")}
    assert media["videos/0._type"] == "video-file"
    assert media["videos/0.caption"] == "a red lake (seed 0)"
    assert media["videos/contact_sheet._type"] == "image-file"
    files = next((tmp_path / "run").rglob("offline-run-*")) / "files"
    for key in ("videos/0.path", "videos/contact_sheet.path"):
        assert (files / media[key]).stat().st_size > 0
    assert run.group == ""
    assert run.summary["metrics/motion_amount"] >= 0


def test_w_and_bs_step_is_the_training_step_also_of_a_resumed_run(small, tmp_path, capsys):
    words = [*small, "samples.every=1", "samples.while_training=1", "save_every=1"]
    assert main(["motion=waterfall", "hydra.run.dir=run", *words]) == 0
    (first,) = runs_below(tmp_path / "run")
    capsys.readouterr()
    assert main(["resume=run", "trainer.max_steps=4"]) == 0
    parts = sorted((tmp_path / "run").rglob("offline-run-*/*.wandb"))
    runs = [read_finished(file) for file in parts]
    assert len({run.id for run in runs}) == 1
    losses = [[row["_step"] for row in run.history if "train/loss" in row] for run in runs]
    assert losses == [[1, 2], [3, 4]], "a resumed run does not go on where it was"
    for row in (row for run in runs for row in run.history):
        assert row["trainer/global_step"] == row["_step"]
    assert first.history[0]["clips._type"] == "image-file"
    assert not any("clips._type" in row for row in runs[1].history)
    assert (tmp_path / "run" / "clips.png").is_file()
    samples = [row for row in first.history if row.get("samples/table._type") == "incremental-table-file"]
    assert [row["_step"] for row in samples] == [1, 2]
    assert [row["samples/table.nrows"] for row in samples] == [1, 2]
    (final,) = [row for row in first.history if row.get("videos/table._type") == "table-file"]
    assert final["_step"] == 2
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "wandb sync" in line]
    places = [str(file.parent.relative_to(tmp_path)) for file in parts]
    assert "WANDB_RESUME=allow " in line
    assert line.split("wandb sync ")[1].split() == places


def test_without_a_login_the_user_learns_how_to_look_and_upload(small, tmp_path, capsys):
    assert main(["motion=waterfall", "hydra.run.dir=run", "samples.final=0", *small[:-2], "threads=1"]) == 0
    out = capsys.readouterr().out
    folder = next((tmp_path / "run").rglob("offline-run-*")).relative_to(tmp_path)
    assert f"wandb leet {folder}\n" in out
    assert f"wandb sync {folder}\n" in out


def test_online_without_a_login_says_so(small, capsys):
    assert main(["motion=waterfall", "logger.mode=online", *small]) == 1
    assert "wandb login" in capsys.readouterr().err


def test_a_failed_run_is_closed_as_failed(small, tmp_path, monkeypatch):
    from lamp_lightning.train import run as tuning

    def broken(*_args: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(tuning, "finish", broken)
    with pytest.raises(RuntimeError, match="a fault"):
        main(["motion=waterfall", "hydra.run.dir=run", *small])
    (run,) = runs_below(tmp_path / "run")
    assert run.exit_code == 1
