"""Configs: where they are, the settings that they begin with, and how one is composed.

What a config does not say is declared in `runtime.settings`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from lamp_lightning.runtime import hardware
from lamp_lightning.runtime.command_settings import COMMANDS
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.names import is_unicode
from lamp_lightning.runtime.schema import defaults
from lamp_lightning.runtime.settings import GROUPS, MotionSettings, SamplerSettings

OWN_FOLDER = "'${folder_name:${file_name:${data.folder}}}'"  # names a motion like its folder


def conf_dir() -> Path:
    """The folder with the config groups, of this checkout or of the installed wheel."""
    here = Path(__file__).resolve().parents[1]
    for folder in (here / "conf", here.parents[1] / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise UserError(
        f"The config folder is missing: neither {here / 'conf'} nor {here.parents[1] / 'conf'} exists."
    )


def options(group: str) -> list[str]:
    """The names that a config group offers."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def motion_folders(root: str | Path) -> list[str]:
    """The folders below the data root: each is a motion, whether it has a config or not."""
    try:
        found = [each.name for each in Path(root).expanduser().iterdir() if each.is_dir()]
    except OSError:  # no such root, or one that may not be read
        return []
    return sorted(name for name in found if not name.startswith(".") and is_unicode(name))


def offer_motions(root: str | Path) -> None:
    """Make each folder below the data root that has no config an option of the group `motion`."""
    node = defaults(MotionSettings)
    for name in set(motion_folders(root)) - set(options("motion")):
        ConfigStore.instance().store(group="motion", name=name, node={**node, "name": name, "folder": name})


def composed(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """The config `name` with overrides, as a command would see it; also inside of a command."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return hydra.compose(name, overrides=list(overrides))
    finally:
        GlobalHydra.instance().hydra = running


def folder_name(text: Any, max_length: int = 60) -> str:
    """Any text as the name of a folder: letters, digits and `_.=+-`; never empty, hidden or endless."""
    name = re.sub(r"[^\w.=+-]+", "_", str(text)).strip("._-")
    short = name[:max_length].encode()[:240].decode(errors="ignore")  # file systems take 255 bytes
    return short.rstrip("._-") or "untitled"


OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
OmegaConf.register_new_resolver("file_name", lambda path: Path(str(path)).absolute().name, replace=True)
OmegaConf.register_new_resolver("file_stem", lambda path: Path(str(path)).stem, replace=True)
OmegaConf.register_new_resolver("hardware", hardware.resolver, replace=True)
OmegaConf.register_new_resolver("times", lambda a, b: a * b, replace=True)
OmegaConf.register_new_resolver("rounded", round, replace=True)  # to a whole number


# The declared settings as configs of Hydra's, for the files in conf/ to begin with.
_STORE = ConfigStore.instance()
for _name, _schema in COMMANDS.items():
    _STORE.store(group="settings", name=_name, node=defaults(_schema, without=GROUPS), package="_global_")
for _name, _schema in GROUPS.items():
    _STORE.store(group=f"{_name}/shared", name="any", node=defaults(_schema))
# Of the sample command: what is null is as the motion was tuned to be sampled.
_STORE.store(group="sampler/shared", name="nothing", node=defaults(SamplerSettings, null=True))
