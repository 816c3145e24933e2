"""Checkpoints on disk: written whole, verified to the last bit, and checked part by part before use."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import lightning
import torch
from lightning import Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from packaging.version import Version
from pydantic import AfterValidator, ConfigDict, Field
from torch import Tensor

from lamp_lightning.models.adapter import same_weights
from lamp_lightning.models.base.load import load_base_model
from lamp_lightning.models.modules import MotionModules
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import replacing, save_tensors
from lamp_lightning.runtime.reading import Schema, checked
from lamp_lightning.runtime.schema import Text
from lamp_lightning.runtime.settings import (
    Dtype,
    LoraScale,
    Norm,
    NotNegative,
    OptimizerName,
    Seed,
    TunerSettings,
)

if TYPE_CHECKING:
    from lamp_lightning.models.backbone import VideoBackbone
    from lamp_lightning.models.base.model import BaseModel

ADVICE = "Remove it to train this run from the beginning."
WHAT = "the checkpoint of a run"
STATES: dict[OptimizerName, tuple[str, ...]] = {  # what an optimiser keeps of a parameter besides its steps
    "adamw": ("exp_avg", "exp_avg_sq"),
    "adamw8bit": ("state1", "state2"),
    "muon": ("exp_avg", "exp_avg_sq"),  # of what is no matrix
}
WEIGHTS = ("state_dict", "current_model_state")  # Lightning's averaging keeps averages in the first
MOST_STEPS = 10**9
_SCHEDULER = torch.optim.lr_scheduler.LambdaLR(
    torch.optim.SGD([torch.zeros(1)], lr=1.0), lambda _: 1.0
).state_dict()
_SCHEDULER_KEYS = {*_SCHEDULER, "verbose", "_get_lr_called_within_step", "_is_initial"}  # of any PyTorch
_BEST = ("best_model_path", "last_model_path", "kth_best_model_path", "best_k_models")  # of ModelCheckpoint


class CheckpointFile(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there; reads tensors and plain values only.

    Lightning's own way goes through the temporary folder of the system, which may be small.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with replacing(Path(path)) as part:
            save_tensors(checkpoint, part)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = True) -> Any:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)  # Lightning's own removes a folder, too, with all that is in it


def read_checkpoint(file: Path, advice: str = ADVICE) -> Any:
    """The content of a checkpoint, its tensors mapped from the file.

    UserError where it cannot be read, is damaged, or holds more than tensors and plain values.
    """
    try:
        damaged = damage(file)
        if damaged is None:
            return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # what zipfile, pickle and torch raise has no common base
        damaged = type(error).__name__
    raise UserError(f"The checkpoint {file} cannot be read ({damaged}). {advice}")


def damage(file: Path) -> str | None:
    """What is wrong with the bytes of a checkpoint; None where each of its parts has its checksum.

    PyTorch writes a checksum for each part, and does not look at it when it reads.
    """
    with zipfile.ZipFile(file) as parts:
        infos = parts.infolist()
        names = [info.filename for info in infos]
        if len(set(names)) != len(names):
            return "a part is there twice"
        for info in infos:  # what the checksums do not cover and PyTorch obeys
            plain = (zipfile.ZIP_STORED, info.file_size, 0, 0)
            if (info.compress_type, info.compress_size, info.external_attr, info.volume) != plain:
                return f"its entry of {info.filename} is damaged"
        places = sorted((info.header_offset, info.file_size) for info in infos)
        if any(begin + size > after for (begin, size), (after, _) in pairwise(places)):
            return "its parts overlap"
        bad = parts.testzip()
    return None if bad is None else f"the checksum of {bad} is wrong"


# -- what stands in it ---------------------------------------------------------------------------------------


IN_8_BITS = "__bnb_optimizer_quant_state__"


class Part(Schema):
    """A part of a checkpoint; Lightning and PyTorch may keep more in it."""

    model_config = ConfigDict(extra="ignore", arbitrary_types_allowed=True)


Count = Annotated[int, Field(ge=0, le=MOST_STEPS)]
Share = Annotated[float, Field(ge=0, lt=1)]
Nothing = Annotated[dict[str, Any], Field(max_length=0)] | None


class ParameterGroup(Part):
    """Settings of an optimiser, and which parameters they are for; its further options are plain values."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, bool | float | None]

    params: list[Count]
    lr: NotNegative
    initial_lr: NotNegative = 0.0
    betas: tuple[Share, Share] | Annotated[list[Share], Field(min_length=2, max_length=3)]
    eps: NotNegative
    weight_decay: NotNegative


class OptimizerState(Part):
    """The state of each parameter by its number, and the settings."""

    state: dict[int, dict[str, Any]]
    param_groups: Annotated[list[ParameterGroup], Field(min_length=1, max_length=1)]


class SchedulerState(Part):
    """Where the schedule of the learning rate stands."""

    last_epoch: Count
    step_count: Count = Field(0, alias="_step_count")
    base_lrs: list[NotNegative]
    last_lr: list[NotNegative] = Field([], alias="_last_lr")
    lr_lambdas: list[Nothing]


class ProgressState(Part):
    """What the progress bar had counted."""

    loss: float | None
    seconds: NotNegative


class Callbacks(Part):
    """The state of our callbacks."""

    progress: ProgressState | None = Field(None, alias="TrainingProgress")


class ScalerState(Part):
    """The loss scaler of float16."""

    scale: float
    growth_factor: float
    backoff_factor: float
    growth_interval: int
    growth_tracker: int = Field(0, alias="_growth_tracker")


class Checkpoint(Part):
    """A checkpoint of one of our runs, as Lightning writes it."""

    epoch: Count
    global_step: Count
    version: Annotated[str, AfterValidator(Version)] = Field(alias="pytorch-lightning_version")
    state_dict: dict[str, Any]
    loops: dict[str, Any]
    callbacks: Callbacks
    optimizer_states: Annotated[list[OptimizerState], Field(min_length=1, max_length=1)]
    lr_schedulers: Annotated[list[SchedulerState], Field(max_length=1)]
    optimizer: OptimizerName = "adamw"
    variant: dict[str, Any] | None = None
    scaler: ScalerState | None = Field(None, alias="MixedPrecision")
    current_model_state: dict[str, Any] = Field({})  # these two where weights are averaged
    averaging_state: dict[str, Any] = Field({})


class BaseFacts(Part):
    """What is kept of the UNet below, to find it again."""

    norm: Norm
    dtype: Dtype
    fingerprint: Annotated[list[float], Field(max_length=10_000)]
    modules: MotionModules | None = None


class Hyperparameters(TunerSettings):
    """The arguments of a `MotionTuner`; a class of the user's may have more."""

    model_config = ConfigDict(extra="ignore")

    seed: Seed = 0
    gradient_checkpointing: bool = False
    base_model: Text | None = None
    base_config: Text | None = None
    base_variant: Text | None = None
    base_lora: Text | None = None
    base_lora_scale: LoraScale = 1.0


class SavedModule(Part):
    """What of a checkpoint makes the module again."""

    file: Path
    state_dict: dict[str, Any]
    variant: dict[str, Any] | None = None
    hyper_parameters: Hyperparameters
    facts: BaseFacts = Field(alias="base")

    def base_model(self) -> BaseModel:
        """The text-to-image model that it names. Raises UserError where it names none."""
        if (name := self.hyper_parameters.base_model) is None:
            raise UserError(
                f"{self.file} does not say which model it was tuned on: give base_model=<folder or hub id>, "
                "or unet and scheduler."
            )
        return load_base_model(
            name,
            config=self.hyper_parameters.base_config,
            variant=self.hyper_parameters.base_variant,
            lora=self.hyper_parameters.base_lora,
            lora_scale=self.hyper_parameters.base_lora_scale,
            torch_dtype=getattr(torch, self.facts.dtype),
        )

    def check_unet(self, unet: VideoBackbone) -> None:
        """Raise UserError where a UNet has other frozen weights than the one that was tuned."""
        if not same_weights(unet.fingerprint(), self.facts.fingerprint):
            raise UserError(
                f"{self.file} was tuned on other weights than those of "
                f"{self.hyper_parameters.base_model or 'this UNet'}. Give base_model=<folder or hub id>."
            )


def read_module(file: Path, changed: Mapping[str, Any]) -> SavedModule:
    """What of a checkpoint makes the module again, with some of its hyperparameters changed.

    Raises:
        UserError: it cannot be read, is damaged, or of a version that kept no hyperparameters.
    """
    content = read_checkpoint(file, "Train again, or give another.")
    values = content.get("hyper_parameters") if isinstance(content, dict) else None
    if not isinstance(values, dict) or "base" not in content:
        raise UserError(
            f"{file} is no checkpoint of a MotionTuner that has its hyperparameters. One of version 0.1 goes "
            "on with `python -m lamp_lightning.train resume=<run>`, and its adapter loads by itself."
        )
    if odd := [name for name in values if not str(name).isidentifier() or str(name).startswith("_")]:
        raise UserError(f"{file} has the hyperparameter {str(odd[0])[:40]!r}, which a file may not give.")
    known = {name: value for name, value in changed.items() if name in Hyperparameters.model_fields}
    content = {**content, "file": file, "hyper_parameters": {**values, **known}}
    return checked(SavedModule, content, file=file, what="a checkpoint", advice="Give another.")


def check_checkpoint(file: Path, tuner: Any, trainer: Trainer) -> None:
    """Raise UserError where a run cannot go on from a checkpoint, before anything of it is used."""
    content = read_checkpoint(file)
    checkpoint = checked(Checkpoint, content, file=file, what=WHAT, advice=ADVICE)
    try:
        tuner.on_load_checkpoint(content)
    except UserError as error:
        raise UserError(f"{file} cannot be used here. {error}") from error
    shapes = {
        name: tuple(parameter.shape)
        for name, parameter in zip(tuner.tuned_names(), tuner.learned(), strict=True)
    }
    for key in WEIGHTS:
        for name, shape in shapes.items() if key in content else ():
            _check_tensor(content[key][name], f"{key}.{name}", file, shape, (torch.float32,))
    for name in {"n_averaged", *checkpoint.averaging_state} if checkpoint.current_model_state else ():
        _check_tensor(
            checkpoint.averaging_state.get(name), f"averaging_state.{name}", file, (), (torch.long,)
        )
    _check_optimizer(checkpoint, list(shapes.items()), file)
    for scheduler in content["lr_schedulers"]:
        if unknown := sorted(str(key) for key in scheduler.keys() - _SCHEDULER_KEYS):
            raise _unusable(file, f"lr_schedulers has {unknown[0]!r}, which is not known")
    for state in content["callbacks"].values():
        _check_paths(state, file)
    own = trainer.fit_loop.state_dict()
    loop = _known(checkpoint.loops, "fit_loop", "loops", file)
    _check_like(own, loop, "loops.fit_loop", file)
    done = _known(loop, "epoch_loop.automatic_optimization.optim_progress", "loops.fit_loop", file)
    for key in ("optimizer", "step", "total", "completed"):
        done = _known(done, key, "loops.fit_loop", file)
    if done != checkpoint.global_step:
        raise _unusable(file, f"it is of step {checkpoint.global_step}, but its loops counted {done}")


def _check_paths(state: Any, file: Path) -> None:
    """Lightning's ModelCheckpoint removes the files that its state names: they lie where it writes."""
    if not isinstance(state, Mapping):
        return
    for value in (state[name] for name in _BEST if name in state):
        for path in value if isinstance(value, Mapping) else [value]:
            if ".." in Path(str(path)).parts or "://" in str(path):
                raise _unusable(file, f"callbacks has the path {str(path)[:80]!r}")


def _check_optimizer(
    checkpoint: Checkpoint, shapes: Sequence[tuple[str, tuple[int, ...]]], file: Path
) -> None:
    """The optimiser's state is of these parameters, in this order."""
    optimizer = checkpoint.optimizer_states[0]
    if optimizer.param_groups[0].params != list(range(len(shapes))):
        count = len(optimizer.param_groups[0].params)
        raise _unusable(file, f"its optimiser has {count} parameters, and this model tunes {len(shapes)}")
    kept = STATES[checkpoint.optimizer]
    if checkpoint.optimizer == "muon" and optimizer.param_groups[0].model_dump().get("matrices") is not True:
        raise _unusable(file, "its optimiser is no Muon of matrices")
    for number, state in optimizer.state.items():
        if not 0 <= number < len(shapes):
            raise _unusable(file, f"its optimiser has a parameter {number}, which this model lacks")
        name, shape = shapes[number]
        where = f"optimizer_states.0.state.{number}"
        wrapped = state.get(IN_8_BITS, {})  # bitsandbytes keeps what is quantised in a dictionary of its own
        if not isinstance(wrapped, Mapping):
            raise _unusable(file, f"{where}.{IN_8_BITS} is no dictionary")
        state = {**state, **wrapped}
        keys = ("momentum_buffer",) if checkpoint.optimizer == "muon" and len(shape) >= 2 else ("step", *kept)
        for key in keys:
            if key not in state:
                raise _unusable(file, f"{where} lacks {key!r}")
            wanted = () if key == "step" else shape
            if not (key == "step" and isinstance(state[key], int | float)):
                _check_tensor(state[key], f"{where}.{key} (of {name})", file, wanted)
        for key, value in state.items():
            if isinstance(value, Tensor):
                _check_tensor(value, f"{where}.{key}", file, None)
        last = keys[-1]
        if last != "momentum_buffer" and state[last].is_floating_point() and bool((state[last] < 0).any()):
            raise _unusable(file, f"{where}.{last} (of {name}) has negative values")


def _check_tensor(
    value: Any,
    name: str,
    file: Path,
    shape: tuple[int, ...] | None,
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.uint8),
) -> None:
    """A dense tensor of finite numbers; of that shape and one of those types, unless `shape` is None."""
    if not isinstance(value, Tensor):
        raise _unusable(file, f"{name} is no tensor, but {type(value).__name__}")
    if value.layout != torch.strided or value.device.type != "cpu":
        raise _unusable(file, f"{name} is a {value.layout} tensor on {value.device}")
    if shape is not None and tuple(value.shape) != shape:
        raise _unusable(file, f"{name} has shape {tuple(value.shape)}, and this model needs {shape}")
    if value.is_complex() or (shape is not None and value.dtype not in dtypes):
        raise _unusable(file, f"{name} has numbers of the type {value.dtype}")
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise _unusable(file, f"{name} holds NaN or infinite values")


def _check_like(own: Any, found: Any, where: str, file: Path) -> None:
    """`found` has no other keys than `own` and the same types; counts are whole numbers, not negative."""
    if not isinstance(own, Mapping):
        if type(found) is not type(own) or not 0 <= found <= MOST_STEPS:
            raise _unusable(file, f"{where} is {str(found)[:40]!r}")
        return
    if not isinstance(found, Mapping):
        raise _unusable(file, f"{where} is {str(found)[:40]!r}")
    for key, value in found.items():
        _check_like(_known(own, key, where, file), value, f"{where}.{key}", file)
    if "is_last_batch" in own or "total" in own or "optimizer" in own or "step" in own:
        for key in own:
            _known(found, key, where, file)


def _known(values: Any, key: Any, where: str, file: Path) -> Any:
    if not isinstance(values, Mapping) or key not in values:
        raise _unusable(file, f"{where} and Lightning {lightning.__version__} differ in {str(key)[:60]!r}")
    return values[key]


def _unusable(file: Path, what: str) -> UserError:
    return UserError(f"{file} cannot be used as {WHAT}: {what}. {ADVICE}")
