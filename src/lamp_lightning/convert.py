"""`python -m lamp_lightning.convert from=... out=...`: the authors' checkpoints to adapters and back.

An adapter to an adapter, `out=<name>.safetensors`, makes a smaller one: of low rank (`rank=16`), in half
precision, or both.

A folder that the authors' code saved (a UNet's, or a pipeline's with `unet/` in it) becomes a motion
adapter. A run folder or an adapter becomes `<out>/unet`, from which the authors' code reads the UNet; it
takes all else from the base model.

A LoRA of LTX-Video becomes a file that diffusers' `load_lora_weights(<out>)` reads.

An adapter holds the tuned tensors only. On the way back the frozen ones are the base model's: the folder is
the same again, bit for bit, if its frozen tensors were the base model's, which `base=` makes sure of.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from lamp_lightning.runtime.command import run_command
from lamp_lightning.runtime.command_settings import Convert
from lamp_lightning.runtime.console import call, quiet, quiet_libraries, short
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.hub import megabytes
from lamp_lightning.runtime.names import TOY_MODELS
from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.runtime.schema import check_settings

if TYPE_CHECKING:
    import torch

    from lamp_lightning.models.registry import MotionUNet

LICENCE = "CC BY-NC 4.0, as the authors publish their checkpoints: for non-commercial use only"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    quiet()
    overrides = sys.argv[1:] if argv is None else argv
    # To Hydra `motion=` would choose a config of that group; here nothing is tuned, and it names a motion.
    return run_command(convert, "convert", [re.sub("^motion=", "motion.name=", each) for each in overrides])


def convert(cfg: DictConfig) -> None:
    """Convert `from`, an official checkpoint folder or an adapter, to the other, `out`."""
    check_settings(Convert, cfg, may_be_null=("motion.",))
    if cfg.size == "auto":
        raise UserError(
            "size=auto takes the shape of a picture, and there is none here: give the size that the motion "
            "is generated at, like size=[320,512]."
        )
    source, out = Path(str(cfg["from"])).expanduser(), Path(str(cfg.out)).expanduser()
    if not source.exists():
        raise UserError(
            f"from={source} does not exist. Give a checkpoint folder of the authors' code, or a run folder "
            "or motion adapter of ours."
        )
    adapter = adapter_of(source)
    if adapter is None:
        check_adapter_out(source, out, cfg.overwrite)
        quiet_libraries()
        to_adapter(source, out, cfg)
    elif out.suffix == ".safetensors":
        check_smaller_out(adapter, out, cfg.overwrite)
        quiet_libraries()
        to_smaller(adapter, out, cfg)
    else:
        if cfg.rank is not None:
            raise UserError(f"rank={cfg.rank} makes a smaller adapter: out={out} must be <name>.safetensors.")
        if is_lora(adapter):
            to_lora(adapter, out, cfg.overwrite)
            return
        check_folder_out(source, out, cfg.overwrite)
        quiet_libraries()
        to_official(adapter, out, cfg)


def adapter_of(source: Path) -> Path | None:
    """The adapter that `source` is or, being a run folder, holds; None for the authors' checkpoints."""
    from lamp_lightning.models.adapter import read_metadata
    from lamp_lightning.models.official import unet_folder

    if source.is_file():
        if (source.parent / "config.json").is_file():
            raise UserError(f"from={source} is one file of a checkpoint: give its folder, {source.parent}.")
        read_metadata(source)
        return source
    run = RunFolder(source)
    if run.info_file.is_file():  # the authors' output folders have a config.yaml, too, but no run.json
        if run.adapter.is_file():
            return run.adapter
        raise UserError(
            f"{source} has no adapter yet: the run has not come so far. Go on with it by "
            f"{call('train')} resume={source}"
        )
    try:
        unet_folder(source)
    except UserError as error:
        raise UserError(
            f"from={source} is neither a checkpoint folder of the authors' code (it has no config.json and "
            "no unet/config.json) nor a run folder of ours (it has no run.json)."
        ) from error
    return None


# -- official to adapter -------------------------------------------------------------------------------------


def to_adapter(source: Path, out: Path, cfg: DictConfig) -> None:
    """Write the tuned tensors of an official checkpoint folder as a motion adapter."""
    from lamp_lightning.diffusion.sampler import Sampler
    from lamp_lightning.models.official import check_frozen, check_new_norms, official_config, warn_of_half
    from lamp_lightning.models.registry import MotionUNet

    unet = MotionUNet.from_official(source)
    check_new_norms(unet, source)
    base, config = absolute(cfg.base), absolute(cfg.base_config)
    if base is None:
        print(
            f"Note: without base=<model> nothing tells whether {source} was tuned on the model that you will "
            "use. The adapter names none either: sampling then needs base=<model>.",
            file=sys.stderr,
        )
    else:
        untuned = base_unet(base, config)
        check_frozen(unet, untuned, source, base)
        unet.know_image_queries(untuned.image_queries())
    warn_of_half(unet, source)
    motion = str(cfg.motion.name or motion_of(source))
    sampler = Sampler().changed({"num_frames": cfg.num_frames, "size": cfg.size})  # the rest as the authors'
    unet.save_motion(
        out,
        base_model=base,
        base_config=config if base else None,
        motion=motion,
        prompt=str(cfg.prompt or motion.replace("_", " ")),
        num_frames=sampler.num_frames,
        sampler=sampler.settings(),
        official_config=official_config(source),
    )
    print(f"  adapter  {short(out)}")
    print(f"  licence  {LICENCE}")
    needed = "" if base else " base=<model>"
    print(f"  generate {call('sample')} run={short(out)}{needed} prompt=...", flush=True)


def motion_of(source: Path) -> str:
    """The motion by the name of its folder: the authors keep `<motion>/unet`."""
    folder = source.resolve()
    return folder.parent.name if folder.name == "unet" else folder.name


def absolute(model: Any) -> str | None:
    """The whole path of a local model, for an adapter that is used from anywhere; other names as they are."""
    if model is None or model in TOY_MODELS:
        return model
    path = Path(str(model)).expanduser()
    return str(path.absolute()) if path.exists() else str(model)


def check_adapter_out(source: Path, out: Path, overwrite: bool) -> None:
    """Whether an adapter may be written to `out`."""
    from lamp_lightning.models.adapter import read_metadata

    if out.is_dir() or out.suffix != ".safetensors":
        raise UserError(
            f"from={source} is a checkpoint folder of the authors' code, which becomes a motion adapter, one "
            f"file: out={out} must be named <name>.safetensors and be no folder."
        )
    if out.exists():
        check_replaceable(out, overwrite, read_metadata, "motion adapters")


# -- adapter to official -------------------------------------------------------------------------------------


def to_official(file: Path, out: Path, cfg: DictConfig) -> None:
    """Write base model and adapter as `<out>/unet`, in the adapter's precision."""
    from lamp_lightning.models.adapter import precision, read_metadata
    from lamp_lightning.models.official import save_official

    facts = read_metadata(file)
    if facts.get("norm") != "joint":
        raise UserError(
            f"{file} was tuned with norm={facts.get('norm')}; the authors' code pools GroupNorm over frames, "
            "so only adapters with norm=joint become checkpoints of theirs."
        )
    if cfg.base is not None:  # the adapter's settings are of its own base
        base, config, variant = str(cfg.base), cfg.base_config, None
    elif base := facts.get("base_model", ""):
        config, variant = cfg.base_config or facts.get("base_config"), facts.get("base_variant")
    else:
        raise UserError(f"{file} does not say which base model it belongs to. Name it with base=<model>.")
    unet = base_unet(base, config, variant)
    unet.load_motion(file)
    unet.to(precision(file))
    save_official(unet, out / "unet", facts.get("official_config"))
    print(f"  UNet     {short(out / 'unet')}")
    print(
        f"  generate with the authors' code: inference_script.py --weight {short(out / 'unet')} "
        f"--pretrain_weight <folder of {base}>",
        flush=True,
    )


def check_folder_out(source: Path, out: Path, overwrite: bool) -> None:
    """Whether `<out>/unet` may be written."""
    from lamp_lightning.models.official import official_config

    if out.is_file() or out.suffix in (".safetensors", ".bin", ".ckpt", ".pt"):
        raise UserError(
            f"from={source} has a motion adapter, which becomes a checkpoint folder of the authors' code: "
            f"out={out} must be a folder."
        )
    folder = out / "unet"
    if folder.is_dir() and all(file.name.startswith(".") for file in folder.iterdir()):
        return  # free, but perhaps for what an interrupted conversion left
    if folder.exists():
        check_replaceable(folder, overwrite, official_config, "UNets of LAMP")


# -- a LoRA to diffusers -------------------------------------------------------------------------------------

LORA_FILE = "pytorch_lora_weights.safetensors"  # as diffusers saves and looks for it


def is_lora(file: Path) -> bool:
    """Whether a motion adapter is a LoRA of a video model."""
    from lamp_lightning.models.adapter import header_of

    return header_of(file).variant.kind == "image_to_video"


def to_lora(file: Path, out: Path, overwrite: bool) -> None:
    """Write a LoRA by the names that diffusers and peft have for its tensors, in the adapter's precision."""
    from safetensors.torch import save_file

    from lamp_lightning.models.adapter import stored_tensors
    from lamp_lightning.models.tensors import tensor_names
    from lamp_lightning.models.transformer.lora_layers import as_diffusers_name
    from lamp_lightning.runtime.files import replacing

    def check_lora(place: Path) -> None:
        if not all(".lora_" in name for name in tensor_names(place)):
            raise UserError(f"{place} is no LoRA.")

    place = out / LORA_FILE
    if out.is_file():
        raise UserError(f"out={out} is a file: give a folder, into which {LORA_FILE} is written.")
    if place.exists():
        check_replaceable(place, overwrite, check_lora, "LoRAs")
    tensors = {as_diffusers_name(name): tensor for name, tensor in stored_tensors(file).items()}
    if not tensors:
        raise UserError(f"{file} tunes nothing (tuner.tuned=[]): there is no LoRA to write.")
    with replacing(place) as part:
        save_file(tensors, part, metadata={"format": "pt"})
    print(f"  LoRA     {short(place)}")
    print(f"  diffusers: LTXImageToVideoPipeline.load_lora_weights({short(out)!r})", flush=True)


# -- adapter to adapter --------------------------------------------------------------------------------------


def to_smaller(file: Path, out: Path, cfg: DictConfig) -> None:
    """Write an adapter again, of low rank or in another precision, and say what that costs."""
    import torch

    from lamp_lightning.models.compress import compress
    from lamp_lightning.models.header_schema import Header
    from lamp_lightning.models.registry import MotionUNet
    from lamp_lightning.models.stored import tuned_below

    def queries_of_base(header: Header, names: list[str]) -> dict[str, torch.Tensor]:
        named = {"base_model": cfg.base, "base_config": cfg.base_config, "base_variant": None}
        header = header if cfg.base is None else header.model_copy(update=named)
        return tuned_below(MotionUNet, header, file, names)

    made = compress(
        file, out, rank=cfg.rank, dtype=getattr(torch, cfg.adapter_dtype), queries_of_base=queries_of_base
    )
    print("  layers        relative error      numbers before       and now")
    for kind, loss in made.losses.items():
        print(f"  {kind:<14}{loss.error:>14.5f}{loss.before:>20,}{loss.after:>14,}")
    print(f"  adapter       {short(out)}")
    print(f"  size          {megabytes(made.after)}, from {megabytes(made.before)}")
    print(f"  generate      {call('sample')} run={short(out)} prompt=...", flush=True)


def check_smaller_out(adapter: Path, out: Path, overwrite: bool) -> None:
    """Whether a smaller adapter may be written to `out`."""
    from lamp_lightning.models.adapter import read_metadata

    if out.is_dir() or (out.exists() and out.samefile(adapter)):
        raise UserError(f"out={out} is a folder, or the adapter itself: give the name of a new file.")
    if out.exists():
        check_replaceable(out, overwrite, read_metadata, "motion adapters")


# -- both ----------------------------------------------------------------------------------------------------


def check_replaceable(place: Path, overwrite: bool, read: Callable[[Path], object], kind: str) -> None:
    """Whether what is at `place` may be replaced: it must be of the `kind` that `read` reads."""
    if overwrite is not True:
        raise UserError(f"{place} exists already. Give another out, or overwrite=true to replace it.")
    try:
        read(place)
    except UserError as error:
        raise UserError(f"overwrite=true replaces only {kind}. {error} Give another out.") from error


def base_unet(base: str, config: str | None, variant: str | None = None) -> MotionUNet:
    """The base model's UNet, inflated and not tuned, in float32."""
    from lamp_lightning.models.base.load import load_base_model
    from lamp_lightning.models.registry import MotionUNet

    model = load_base_model(base, config=config, variant=variant)
    return MotionUNet.from_unet(model.unet)


if __name__ == "__main__":
    sys.exit(main())
