"""`python -m lamp_lightning.share run=<run or adapter> to=<owner>/<name>`: publish a motion on the hub.

The adapter goes to the Hugging Face hub with a model card, and with the pictures and videos that the card
shows, in one commit. `sample run=<owner>/<name>` uses it on any machine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from lamp_lightning.runtime.command import run_command_of_motion
from lamp_lightning.runtime.command_settings import ShareMotion
from lamp_lightning.runtime.console import call, quiet, quiet_libraries, short
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import explained, part_of, remove, scratch
from lamp_lightning.runtime.hub import check_token, is_id, megabytes, publish
from lamp_lightning.runtime.schema import check_settings

if TYPE_CHECKING:
    from lamp_lightning.sample.publish import Shared


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    quiet()
    return run_command_of_motion(share, "share", sys.argv[1:] if argv is None else argv)


def share(cfg: DictConfig) -> None:
    """Publish the motion, or write what would be published into a folder."""
    check_settings(ShareMotion, cfg)
    repo, out = str(cfg.to), None if cfg.out is None else Path(str(cfg.out)).expanduser()
    if not is_id(repo):
        raise UserError(
            f"to={repo} is no name on the hub: give owner/name, of letters, digits, dashes and dots."
        )
    if out is not None and out.exists():
        raise UserError(f"out={out} is there: give the name of a new folder.")
    from lamp_lightning.sample.motions import find_motions  # torch: seconds, so not before this is right
    from lamp_lightning.sample.publish import gather

    quiet_libraries()
    found = find_motions(cfg.run)
    if found.others or found.weight != 1:
        raise UserError(
            f"run={cfg.run} is a mixture: share each motion by itself, and mix them when you sample."
        )
    if found.origin is not None:
        raise UserError(
            f"run={cfg.run} is on the hub already: give a run folder or an adapter file of yours."
        )
    if out is None:
        check_token(None)
    print(f"  motion        {found.title} ({found.where})", flush=True)
    with scratch() as folder:
        shared = gather(
            found.file if found.run is None else found.run.path,
            repo,
            folder,
            videos=cfg.videos,
            clips=cfg.clips,
            base=cfg.base,
            license=cfg.license,
        )
        for name, content in shared.files.items():
            size = len(content) if isinstance(content, bytes) else content.stat().st_size
            print(f"  {'file':<14}{name} ({megabytes(size)})", flush=True)
        print(f"  licence       {shared.license}", flush=True)
        if len(shared.files) == 2:
            print("Note: an adapter file alone has no pictures and videos; its run folder has.", flush=True)
        if out is not None:
            write(shared, out)
            print(f"  look at       {short(out)}, of which nothing is published", flush=True)
            return
        print(f"Publishing to {repo} ...", flush=True)
        commit = publish(
            repo,
            shared.files,
            message=f"The motion {found.motion}, by lamp-lightning",
            private=cfg.private or None,
        )
    print(f"  page          {commit.repo_url}")
    print(f'  generate      {call("sample")} run={repo} prompt="..."', flush=True)


def write(shared: Shared, out: Path) -> None:
    """Write what would be published into a new folder, whole or not at all."""
    part = part_of(out)
    with explained(out):
        try:
            for name, content in shared.files.items():
                place = part / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
            os.replace(part, out)
        finally:
            remove(part)


if __name__ == "__main__":
    sys.exit(main())
