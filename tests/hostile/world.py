"""The sound files that hostile ones are made from: a small world of runs, models, clips and videos.

It is made by the commands themselves, once, with random models, at the place where all trials then happen:
the paths in its files are absolute.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

SECRET = "s3cr3t-of-the-environment"  # in the environment as SECRET_NAME; nothing may ever show it
SECRET_NAME = "LAMP_TEST_SECRET"
SIZE = 32


def environment(box: Path) -> dict[str, str]:
    """What the commands' environment has besides the usual."""
    return {
        SECRET_NAME: SECRET,
        "HOME": str(box / "home"),
        "TMPDIR": str(box / "tmp"),
        "XDG_CACHE_HOME": str(box / "tmp" / "xdg"),
        "MPLCONFIGDIR": str(box.parent / "matplotlib"),
        "HF_HOME": str(box / "home" / "hf"),
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(box / "tmp"),
        "LAMP_LIGHTNING_HARDWARE": "cpu",
        "COLUMNS": "200",
    }


def build(box: Path) -> None:
    """Make the world in the folder ``box``; runs the commands in this process."""
    from lamp_lightning.edit import __main__ as edit
    from lamp_lightning.sample import __main__ as sample
    from lamp_lightning.train import __main__ as train

    for name in ("home", "tmp", "work", "outside/videos", "clips/dance", "pictures"):
        (box / name).mkdir(parents=True)
    os.environ.update(environment(box))
    os.chdir(box / "work")
    _models(box)
    _clips_and_pictures(box)
    small = [
        f"model.path={box}/model",
        f"model.clip={box}/clip",
        *("model.norm=joint", "model.layers.gate=true"),  # the authors' code has nothing else
        f"data.cache_dir={box}/cache",
        f"data.size=[{SIZE},{SIZE}]",
        "sampler.num_inference_steps=1",
        "sampler.paint_steps=1",
        "trainer.max_steps=1",
        "trainer.accelerator=cpu",
        "samples.every=null",
        "logger=none",
        "threads=1",
    ]
    words = ["motion=dance", f"data.folder={box}/clips/dance", "data.num_frames=2", "samples.final=1"]
    _run(train.main, ["-m", *words, *small, "seed=3", f"hydra.sweep.dir={box}/sweep"])
    (job,) = [path for path in (box / "sweep").iterdir() if path.is_dir()]
    shutil.copytree(job, box / "runs" / "done")
    _unfinished(box / "runs" / "done", box / "runs" / "half")
    _unfinished(box / "runs" / "done", box / "sweep" / job.name)
    _run(
        edit.main,
        [
            f"video={box}/clips/dance/clip_0.mp4",
            "prompt=a blue bird",
            "data.num_frames=2",
            f"hydra.run.dir={box}/edited",
            *small,
        ],
    )
    out = ["format=[mp4,gif,webp,png]", f"out={box}/samples", "threads=1"]
    picture = f"first_frame={box}/pictures/photo.png"
    _run(sample.main, [f"run={box}/runs/done", "prompt=a red lake", picture, *out])
    _texts(box)
    for extra in (box / "work").iterdir():
        shutil.rmtree(extra)


def _run(main: object, words: list[str]) -> None:
    assert callable(main)
    if main(words) != 0:
        raise RuntimeError(f"the world could not be made: {words}")


def _models(box: Path) -> None:
    from random_models import save_random_clip, save_random_model, save_single_file

    save_random_model(box / "model")
    save_random_clip(box / "clip")
    for suffix in (".safetensors", ".ckpt"):
        save_single_file(box / "model", box / f"single{suffix}")


def _clips_and_pictures(box: Path) -> None:
    import numpy as np
    from PIL import Image

    from lamp_lightning.data.video import write_gif, write_mp4

    rng = np.random.default_rng(0)
    for k in range(8):
        video = np.repeat(rng.integers(0, 120, (1, SIZE, SIZE, 3), dtype=np.uint8), 3, axis=0)
        for f in range(3):
            video[f, 4 + k : 12 + k, 4 * f : 4 * f + 9] = 250
        write_mp4(box / "clips" / "dance" / f"clip_{k}.mp4", video, fps=8)
        if k == 0:
            write_gif(box / "clips" / "moving.gif", video)
            write_mp4(box / "outside" / "videos" / "a_red_lake_seed0.mp4", video)
    picture = Image.fromarray(video[0])
    for name in ("photo.png", "photo.jpg", "photo.webp", "photo.gif", "photo.bmp", "photo.tiff"):
        picture.save(box / "pictures" / name)
    (box / "outside" / "canary.txt").write_text("untouched")
    (box / "home" / ".profile").write_text("untouched")


def _unfinished(done: Path, half: Path) -> None:
    """The run as it was before its end: a checkpoint of one step, and two to take."""
    if half.exists():
        shutil.rmtree(half)
    shutil.copytree(done, half)
    for name in ("metrics.json", "adapter.safetensors", "contact_sheet.png"):
        (half / name).unlink(missing_ok=True)
    shutil.rmtree(half / "videos")
    config = half / "config.yaml"
    text = config.read_text()
    assert "max_steps: 1" in text
    config.write_text(text.replace("max_steps: 1", "max_steps: 2"))


def _texts(box: Path) -> None:
    (box / "prompts.txt").write_text("a red lake\na blue bird\n")
    (box / "captions.json").write_text('{"clip_0.mp4": "a red bird", "clip_1": "a lake"}')
    (box / "captions.txt").write_text("".join(f"clip_{k}.mp4: a lake {k}\n" for k in range(8)))
    (box / "video_prompts.json").write_text('{"a_red_lake_seed0": "a red lake"}')
    (box / "video_prompts.csv").write_text("a_red_lake_seed0,a red lake\n")
