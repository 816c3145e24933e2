"""`python -m lamp_lightning.edit video=clip.mp4 prompt="a red car"`: the same motion in another look."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from lamp_lightning.runtime.command import FREE_TEXT, run_command, run_plainly
from lamp_lightning.runtime.command_settings import Edit
from lamp_lightning.runtime.console import quiet
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.run_config import check_targets
from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.runtime.schema import check_settings
from lamp_lightning.train.__main__ import check_places, new_run, settle_paths, with_values


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    quiet()
    runs = [word for word in argv if word.startswith("run=") and word not in ("run=null", "run=")]
    if runs:
        return edit_again(runs[-1].removeprefix("run="), [word for word in argv if word not in runs])
    return run_command(begin, "edit", argv)


def begin(cfg: DictConfig) -> None:
    """Edit a video for the first time, in the folder that Hydra chose."""
    check_settings(Edit, cfg)
    settle(cfg)
    from lamp_lightning.edit.run import check_first_frame, count_frames, edit

    check_first_frame(cfg)
    cfg.data.num_frames = count_frames(cfg)
    with new_run(cfg) as run:
        edit(run, cfg)


def edit_again(folder: str, overrides: Sequence[str]) -> int:
    """Edit again with the tuned state in `folder`, or finish an interrupted edit; returns the exit status."""

    def go_on() -> None:
        run, cfg = RunFolder.open(folder)
        if "video" not in cfg:
            raise UserError(
                f"{run.path} holds the run of a motion, not an edit. Begin one with video=<file> prompt=...; "
                "python -m lamp_lightning.sample generates videos with a motion."
            )
        check_targets(cfg, file=run.config_file, given=overrides)
        check_places(cfg, run, overrides)
        cfg = changed(cfg, overrides)
        check_settings(Edit, cfg)
        settle(cfg)
        from lamp_lightning.edit.run import check_first_frame, edit

        check_first_frame(cfg)
        edit(run, cfg)

    return run_plainly(go_on)


def changed(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The config with the values of overrides; a new prompt has its own place and first frame."""
    pairs = {key: value for key, eq, value in (word.partition("=") for word in overrides) if eq}
    if "video" in pairs:
        raise UserError("video= and run= do not go together: begin a new edit, or leave video out.")
    if "prompt" in pairs:
        cfg.out = cfg.first_frame = None
    cfg.overwrite = False
    texts = {key: value for key, value in pairs.items() if key in FREE_TEXT and key in cfg}
    cfg = with_values(cfg, [word for word in overrides if word.partition("=")[0] not in texts])
    for key, text in texts.items():
        cfg[key] = None if text in ("", "null") else text
    cfg.motion.prompt = cfg.source_prompt
    return cfg


def settle(cfg: DictConfig) -> None:
    """Make the config's paths absolute: an edit can be taken up again from anywhere."""
    settle_paths(cfg)
    for key in ("video", "first_frame", "out"):
        if cfg[key] is not None:
            cfg[key] = str(Path(str(cfg[key])).expanduser().absolute())
    if not Path(cfg.video).exists():
        raise UserError(f"video={cfg.video}: no such clip. Correct the path.")
    if cfg.first_frame is not None and not Path(cfg.first_frame).exists():
        raise UserError(f"first_frame={cfg.first_frame} does not exist: give an image as the first frame.")


if __name__ == "__main__":
    sys.exit(main())
