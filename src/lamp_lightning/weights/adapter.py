"""The motion adapter: one safetensors file with the tuned parameters of a motion and what they belong to."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lamp_lightning.errors import UserError
from lamp_lightning.unet.inflate import Norm
from lamp_lightning.unet.mixture import mix, parts
from lamp_lightning.unet.motion_unet import names_of
from lamp_lightning.unet.variant import LAMP_SETS, Variant

if TYPE_CHECKING:
    from lamp_lightning.unet import MotionUNet

FORMAT = "lamp-lightning motion adapter"
FORMAT_VERSION = "1"
_INVERTED = "inverted_clip"  # a tensor beside the tuned parameters, in adapters that have it
_SAME_BASE = 5e-3  # above the rounding of bfloat16 (2e-3), below what any fine-tuning changes


def save_motion(
    unet: MotionUNet, file: str | Path, *, inverted_clip: Tensor | None = None, **metadata: Any
) -> None:
    """Write the tuned parameters of `unet` as a motion adapter.

    Args:
        unet: a MotionUNet.
        file: path of the `.safetensors` file; written whole or not at all.
        inverted_clip: noise that a tuned clip was inverted to, `1 c f h w`, where sampling begins there.
        metadata: facts for the file's header, such as `base_model`, `motion`, `prompt`, `num_frames`. Strings
            are kept as they are, other values as JSON, None is left out. Format, norm, variant, versions and
            a sample of the frozen weights (to know the base model again) are added.

    Raises:
        UserError: the file cannot be written, or a parameter is not finite.
    """
    file = Path(file)
    if parts(unet):
        raise UserError(f"{file} is not written: several motions are mixed. Load one of them.")
    parameters = dict(zip(unet.trainable_names(), unet.tuned_parameters(), strict=True))
    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in parameters.items()}
    _check_finite(tensors, "The tuned UNet", "The training has diverged: lower the learning rate.")
    if inverted_clip is not None:
        tensors[_INVERTED] = inverted_clip.detach().float().cpu().contiguous()
    header = {key: _text(value) for key, value in metadata.items() if value is not None}
    header |= {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "norm": unet.norm,
        "variant": json.dumps(unet.variant.settings()),
        "base_fingerprint": json.dumps(base_fingerprint(unet)),
        **{f"version_{name}": version for name, version in _versions().items()},
    }
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, metadata=header)
        os.replace(part, file)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise UserError(f"{file} cannot be written: {error}") from error


def load_motion(unet: MotionUNet, file: str | Path, *, check_base: bool = True) -> dict[str, str]:
    """Put a motion adapter's parameters into `unet`, all of them or none, and make it the adapter's variant.

    Its norm becomes the adapter's, too. What the adapter did not tune is as in the untuned model.

    Args:
        unet: a MotionUNet of the base model that the adapter was tuned with.
        file: the adapter.
        check_base: False also takes an adapter that was tuned on other weights of the same architecture.

    Returns:
        The adapter's metadata.

    Raises:
        UserError: not an adapter, another base model, motion modules of another kind, or missing, extra,
            mis-shaped or non-finite tensors. The UNet is then unchanged.
    """
    metadata, tensors = _checked(unet, Path(file), check_base)
    variant = variant_of(metadata)
    unet.remember_untuned(variant)
    mix(unet, [], {})
    unet.set_variant(variant)
    unet.put_tuned(tensors)
    unet.set_norm(cast(Norm, metadata["norm"]))
    return metadata


def set_motions(
    unet: MotionUNet, motions: Mapping[str | Path, float], *, check_base: bool = True
) -> list[dict[str, str]]:
    """Let `unet` move as a weighted sum of motions (see `unet.mixture`), in place of any that it had.

    Args:
        unet: a MotionUNet of the base model that the adapters were tuned with.
        motions: adapters with their weights; 1 is the motion as tuned, 0 none of it, more exaggerates.
        check_base: as for `load_motion`.

    Returns:
        The adapters' metadata.

    Raises:
        UserError: as `load_motion`, no motions, a weight that is no number, adapters of different norms or
            variants, or a UNet whose image model is not known. The UNet is then unchanged.
    """
    if not motions:
        raise UserError("No motions are given: give adapters with their weights.")
    for file, weight in motions.items():
        if not math.isfinite(weight):
            raise UserError(f"{file}: its weight is {weight}; give a number.")
    if len(motions) == 1 and next(iter(motions.values())) == 1:
        return [load_motion(unet, next(iter(motions)), check_base=check_base)]
    loaded = [_checked(unet, Path(file), check_base) for file in motions]
    norms = [metadata["norm"] for metadata, _ in loaded]
    if len(set(norms)) > 1:
        told = ", ".join(f"{file} with {norm}" for file, norm in zip(motions, norms, strict=True))
        raise UserError(f"These motions were tuned with different norms and cannot be mixed: {told}.")
    variants = [variant_of(metadata) for metadata, _ in loaded]
    for file, other in zip(motions, variants, strict=True):
        if different := variants[0].differences(other):
            raise UserError(
                f"{next(iter(motions))} and {file} are motions of different models and cannot be mixed: "
                f"they differ in {different}."
            )
    unet.image_queries()  # known, or an error
    unet.remember_untuned(variants[0])
    unet.set_variant(variants[0])
    unet.put_tuned({})
    untuned = {name: tensor for name, tensor in unet.named_parameters() if name in unet.untuned()}
    weighted = [
        (float(weight), {**untuned, **tensors})
        for weight, (_, tensors) in zip(motions.values(), loaded, strict=True)
    ]
    mix(unet, weighted, unet.image_queries())
    unet.set_norm(cast(Norm, norms[0]))
    return [metadata for metadata, _ in loaded]


def _checked(unet: MotionUNet, file: Path, check_base: bool) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of an adapter that fits `unet`."""
    metadata = read_metadata(file)
    norm = metadata.get("norm")
    if norm not in get_args(Norm):
        raise UserError(f"{file} was tuned with norm={norm}, which this version does not know.")
    variant = variant_of(metadata)
    if variant.kind != unet.variant.kind:
        raise UserError(
            f"{file} has motion layers of the kind {variant.kind!r}, and this UNet those of "
            f"{unet.variant.kind!r}. LAMPPipeline.from_motion({str(file)!r}) loads the right one."
        )
    tensors = _read(file)
    parameters = dict(unet.named_parameters())
    wanted = {name: tuple(parameters[name].shape) for name in unet.names_of(variant.sets)}
    check_tensors(tensors, wanted, file, metadata.get("base_model"))
    if check_base:
        _check_base(unet, metadata, file)
    return metadata, tensors


def variant_of(metadata: Mapping[str, str]) -> Variant:
    """Which variant of the method an adapter was tuned as, by its metadata; older files are LAMP's.

    Raises:
        UserError: one that this version does not know.
    """
    return Variant.from_settings(json.loads(metadata.get("variant", "{}")))


def read_metadata(file: str | Path) -> dict[str, str]:
    """The header of a motion adapter, without its tensors.

    Raises:
        UserError: no such file, not a safetensors file, or not a motion adapter that this version reads.
    """
    file = Path(file)
    if not file.is_file():
        raise UserError(f"{file} does not exist: give a motion adapter, the .safetensors file of a run.")
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is not a readable safetensors file ({error}).") from error
    if metadata.get("format") != FORMAT:
        raise UserError(f"{file} is a safetensors file, but not a motion adapter.")
    if metadata.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{file} has adapter format {metadata.get('format_version')}, this version of lamp-lightning "
            f"reads {FORMAT_VERSION}: update lamp-lightning."
        )
    return metadata


def check_tensors(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], file: Path, base: str | None = None
) -> None:
    """Refuse tensors that are not exactly those wanted, by name and shape, or not finite."""
    belongs = f" It was tuned on {base!r}." if base else ""
    for kind, names in (
        ("lacks tensors of this UNet", wanted.keys() - tensors.keys()),
        ("has tensors unknown to this UNet", tensors.keys() - wanted.keys()),
    ):
        if names:
            raise UserError(
                f"{file} {kind} ({len(names)}, first {min(names)!r}): it belongs to another model or is "
                f"damaged.{belongs}"
            )
    for name, shape in wanted.items():
        if tuple(tensors[name].shape) != shape:
            raise UserError(
                f"{file}: the tensor {name!r} has shape {tuple(tensors[name].shape)}, this UNet needs "
                f"{shape}: it belongs to another model.{belongs}"
            )
    _check_finite(tensors, str(file), "It is damaged or its training diverged.")


def base_fingerprint(
    unet: MotionUNet, per_tensor: int = 2, tensors: int = 32, variant: Variant | None = None
) -> list[float]:
    """A few frozen weights, evenly spread, by which the base model is known again in any precision.

    They are chosen among those that neither LAMP nor `variant` (None: the UNet's own) tunes.
    """
    tuned = set(names_of(unet, (*LAMP_SETS, *(variant or unet.variant).sets)))
    untuned = unet.untuned()  # what a motion that is loaded now has changed, as it was before
    frozen = [(name, p) for name, p in sorted(unet.named_parameters()) if name not in tuned and p.ndim >= 2]
    chosen = frozen[:: max(1, len(frozen) // tensors)]
    values: list[float] = []
    for name, parameter in chosen:
        before = untuned.get(name)
        flat = (parameter.detach() if before is None else before).flatten()
        positions = torch.linspace(0, flat.numel() - 1, per_tensor + 2).long()[1:-1]
        values += flat[positions.to(flat.device)].float().cpu().tolist()
    return values


def _check_base(unet: MotionUNet, metadata: Mapping[str, str], file: Path) -> None:
    if _alike(base_fingerprint(unet, variant=variant_of(metadata)), json.loads(metadata["base_fingerprint"])):
        return
    raise UserError(
        f"{file} was tuned on other weights than this UNet's: its base model is "
        f"{metadata.get('base_model', 'unknown')!r}. Load that one (check_base=False tries anyway)."
    )


def of_same_base(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two adapters, by their metadata, were tuned on the same base model, whatever it was called."""
    return _alike(*(json.loads(metadata["base_fingerprint"]) for metadata in (one, other)))


def _alike(fingerprint: Sequence[float], other: Sequence[float]) -> bool:
    ours, theirs = torch.tensor(fingerprint), torch.tensor(other)
    return ours.shape == theirs.shape and bool((ours - theirs).norm() <= _SAME_BASE * theirs.norm())


def inverted_clip(file: str | Path) -> Tensor | None:
    """The noise that an adapter's clip was inverted to, `1 c f h w`; None where it has none."""
    with safe_open(file, framework="pt") as opened:
        return opened.get_tensor(_INVERTED) if _INVERTED in opened.keys() else None  # noqa: SIM118


def _read(file: Path) -> dict[str, Tensor]:
    with safe_open(file, framework="pt") as opened:
        names = [name for name in opened.keys() if name != _INVERTED]  # noqa: SIM118
        return {name: opened.get_tensor(name) for name in names}


def _check_finite(tensors: Mapping[str, Tensor], what: str, advice: str) -> None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{what}: the tensor {name!r} holds NaN or infinite values. {advice}")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _versions() -> dict[str, str]:
    import diffusers

    from lamp_lightning import __version__

    return {"lamp_lightning": __version__, "torch": torch.__version__, "diffusers": diffusers.__version__}
