"""Motions by name: their prompts, what to show them with, and the toy world's clips of them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from lamp_lightning.data.video import write_mp4
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import is_full, no_space, part_of, remove_dead
from lamp_lightning.runtime.names import TOY_MODELS
from lamp_lightning.toyworld import MOTIONS, held_out_prompts, motion_set_scenes, render_clip
from lamp_lightning.toyworld.render import FPS

USUAL_CLIPS = 8  # of a drawn motion set; the paper tunes on 8 to 16


def sample_prompts(cfg: DictConfig, count: int) -> list[str]:
    """`count` prompts to show a motion with: the config's, else held-out ones, else its name."""
    motion = cfg.motion
    if motion.prompts:
        prompts = list(motion.prompts)
    elif cfg.model.name in TOY_MODELS and is_toy_motion(motion.name):
        prompts = list(held_out_prompts(motion.name, count))
    else:
        prompts = list(motion.get("held_out") or []) or [motion_prompt(cfg)]
    return [prompts[i % len(prompts)] for i in range(count)]


def motion_prompt(cfg: DictConfig) -> str:
    """What a motion is tuned with: `motion.prompt`, or the name with spaces."""
    return str(cfg.motion.prompt or cfg.motion.name).replace("_", " ")


def is_toy_motion(name: str) -> bool:
    """Whether the toy world can draw this motion."""
    return name in MOTIONS


def is_drawn(cfg: DictConfig) -> bool:
    """Whether the clips of this motion are those that the toy world draws, and are not there yet."""
    folder = Path(cfg.data.folder)
    usual = folder == Path(cfg.data.root) / str(cfg.motion.folder)
    return usual and not folder.exists() and all(map(is_toy_motion, _drawn(cfg)))


def _drawn(cfg: DictConfig) -> list[str]:
    """The motions of the toy world that the folder of this motion is to have."""
    return list(cfg.motion.get("drawn") or [str(cfg.motion.name)])


def draw_toy_clips(cfg: DictConfig) -> None:
    """Draw the toy world's clips of this motion where its folder is missing."""
    folder = Path(cfg.data.folder)
    if not is_drawn(cfg):
        return
    if cfg.model.name not in TOY_MODELS:
        raise UserError(
            f"There are no clips at {folder}. Put 8-16 clips of this motion there, or name their folder with "
            "data.folder=<folder>. (Drawn clips of the toy world are only for model=tiny and model=tiny_dit.)"
        )
    clips = max(USUAL_CLIPS, cfg.data.get("max_clips") or 0)
    print(f"No clips at {folder} yet: drawing the toy world's.", flush=True)
    remove_dead(folder.parent)
    part = part_of(folder)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        render_motion_set(_drawn(cfg), part, clips=clips)
        os.replace(part, folder)
    except (OSError, UserError) as error:
        if is_full(error):
            raise no_space(folder) from error
        if not folder.exists():  # another process may have been faster
            why = getattr(error, "strerror", error)
            raise UserError(
                f"The clips of the toy world cannot be written to {folder}: {why}. "
                "Choose another place with data.root=<folder>."
            ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def render_motion_set(
    motion: str | Sequence[str],
    folder: str | os.PathLike[str],
    *,
    clips: int = 8,
    size: int = 64,
    seed: int = 0,
    captions: bool = True,
) -> list[Path]:
    """Write `clips` mp4 files of one of the `MOTIONS`, or several in turn, to `folder`; return their paths.

    `size`: pixels of a side, which the tiny model has 64 of; `seed`: another one draws other scenes;
    `captions`: also write each scene's caption, to captions.json.
    """
    motions = [motion] if isinstance(motion, str) else list(motion)
    for each in motions:
        if each not in MOTIONS:
            raise ValueError(f"The toy world has no motion {each!r}; it has {', '.join(MOTIONS)}.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths, scenes = [], {}
    sets = [motion_set_scenes(each, -(-clips // len(motions)), seed) for each in motions]
    for k, scene in enumerate([scene for in_turn in zip(*sets, strict=True) for scene in in_turn][:clips]):
        path = folder / f"{scene.motion}_{k:02d}.mp4"
        write_mp4(path, render_clip(scene, size=size), fps=FPS)
        scenes[path.name] = scene.caption
        paths.append(path)
    if captions:
        (folder / "captions.json").write_text(json.dumps(scenes, indent=1) + "\n", encoding="utf-8")
    return paths
