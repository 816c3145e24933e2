"""A file with a transformer and no text encoders, as fine-tuned ones are shared: the rest is of a folder."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from lamp_lightning.models.base.folder import (
    check_data,
    check_local_config,
    config_source,
    load_folder,
    read_index,
)
from lamp_lightning.models.base.kinds import LTX, SANA, SD3, Kind, kind_of
from lamp_lightning.models.base.model import BaseModel
from lamp_lightning.models.checks import lacks_data, library_reason, quiet_loading
from lamp_lightning.runtime.errors import UserError

_PREFIX = "model.diffusion_model."
_MARKS = {  # the end of a tensor's name that only such a transformer has in its original format
    "joint_blocks.0.x_block.attn.qkv.weight": SD3,
    "blocks.0.mlp.depth_conv.conv.weight": SANA,
    "patchify_proj.weight": LTX,
}
_OTHER_PARTS = ("vae.", "first_stage_model.", "text_encoders.")
_JOINED = {".qkv.": 3, ".kv_linear.": 2}  # one tensor in the file, so many in the model
_LEFT_OUT = ("pos_embed", "y_embedder.y_embedding")  # what diffusers computes of Sana, or does without
_ADVICE = "Fetch the file again, or give the model.config of a model of the same kind and size."


def kind_of_denoiser(names: Collection[str]) -> Kind | None:
    """The kind of model that a transformer with tensors of these names is of; None: it is none."""
    bare = {name.removeprefix(_PREFIX) for name in names}
    return next((kind for mark, kind in _MARKS.items() if mark in bare), None)


def load_denoiser_file(
    file: Path, kind: Kind, names: Collection[str], config: str | Path | None, torch_dtype: torch.dtype
) -> BaseModel:
    """A base model whose transformer is that of `file`; all else is of the model `config`.

    The autoencoder of such a file is not looked at.

    Args:
        file: with a transformer of Sana, Stable Diffusion 3 or LTX-Video in its original format.
        kind: of that transformer.
        names: of the file's tensors.
        config: the diffusers folder or hub id of a model of the same kind.
        torch_dtype: of all weights.

    Raises:
        UserError: no `config`, one of another kind or size, or a damaged file.
    """
    if config is None:
        raise UserError(
            f"{file} holds a transformer of {kind.title} without its text encoders. Give the diffusers "
            "folder or hub id of a model of the same kind as model.config=: all else comes from there."
        )
    source = config_source(config)
    found = kind_of(read_index(source))
    if found is not kind:
        raise UserError(
            f"{file} holds a transformer of {kind.title}, and {source} is a {found.title}. {_ADVICE}"
        )
    local = Path(source).is_dir()
    if local:
        check_local_config(Path(source))

    def read(cls: Any) -> Any:
        options = {"config": source, "subfolder": kind.denoiser, "local_files_only": local}
        try:
            with quiet_loading():
                model = cls.from_single_file(str(file), torch_dtype=torch_dtype, **options)
        except Exception as error:  # whatever the libraries meet
            reason = "it lacks tensors" if lacks_data(error) else library_reason(error)
            if isinstance(error, KeyError):
                reason = f"it lacks the tensor {error.args[0]!r}"
            raise UserError(
                f"{file} cannot be loaded as the transformer of {source} ({reason}). {_ADVICE}"
            ) from error
        check_data(model, f"{file}: its transformer", _ADVICE)
        _check_all_used(model, kind, names, file)
        return model

    base = load_folder(source, None, torch_dtype, denoiser=read)
    base.name = str(file)
    return base


def _check_all_used(model: Any, kind: Kind, names: Collection[str], file: Path) -> None:
    """Refuse a file with more than the model takes: diffusers only warns of that."""
    own = [name.removeprefix(_PREFIX) for name in names if not name.startswith(_OTHER_PARTS)]
    joined = sum(count - 1 for name in own for mark, count in _JOINED.items() if mark in name)
    dropped = sum(name in _LEFT_OUT for name in own) if kind is SANA else 0
    more = len(own) + joined - dropped - len(model.state_dict())
    if more > 0:
        raise UserError(f"{file} has {more} tensors more than such a transformer. {_ADVICE}")
