"""The motion adapter: one safetensors file with the tuned parameters of a motion and what they belong to."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lamp_lightning.models.header import FORMAT, FORMAT_VERSION, LARGEST_HEADER, Header, as_texts, read_header
from lamp_lightning.models.unet.mixture import mix, parts
from lamp_lightning.models.unet.motion_unet import names_of
from lamp_lightning.models.variant import LAMP_SETS, Variant
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.files import replacing

if TYPE_CHECKING:
    from lamp_lightning.models.families import MotionUNet

_FLOATS = ("F64", "F32", "F16", "BF16")  # what tensors may be of, as safetensors calls them
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
        metadata: facts for the file's header (`weights.header.Header`), such as `base_model`, `motion`,
            `prompt`, `num_frames`. Strings are kept as they are, other values as JSON, None is left out.
            Format, norm, variant, versions and a sample of the frozen weights (to know the base model again)
            are added.

    The same tensors and facts make the same bytes.

    Raises:
        UserError: the file cannot be written, a parameter is not finite, or a fact is not what the header
            can hold.
    """
    file = Path(file)
    if parts(unet):
        raise UserError(f"{file} is not written: several motions are mixed. Load one of them.")
    parameters = dict(zip(unet.trainable_names(), unet.tuned_parameters(), strict=True))
    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in parameters.items()}
    _check_finite(tensors, "The tuned UNet", "The training has diverged: lower the learning rate.")
    if inverted_clip is not None:
        tensors[_INVERTED] = inverted_clip.detach().float().cpu().contiguous()
    facts = {
        **metadata,
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "norm": unet.norm,
        "variant": unet.variant.settings(),
        "base_fingerprint": base_fingerprint(unet),
        **{f"version_{name}": version for name, version in _versions().items()},
    }
    header = as_texts(facts, file)
    try:
        with replacing(file) as part:
            save_file(tensors, part, metadata=header)
            _sort_header(part)
    except SafetensorError as error:
        raise UserError(f"{file} cannot be written: {error}") from error


def _sort_header(file: Path) -> None:
    """Put the header of a safetensors file into one order; as written, that of its texts is random.

    They come out of a hash map, and every process orders those otherwise. Sorted, the same content is the
    same bytes; the length of the header, and so the place of every tensor, stays as it is.
    """
    with open(file, "r+b") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= length:  # always, as both writers are as short as JSON can be
            opened.seek(8)
            opened.write(text.ljust(length))


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
    metadata, header, tensors = _checked(unet, Path(file), check_base)
    unet.remember_untuned(header.variant)
    mix(unet, [], {})
    unet.set_variant(header.variant)
    unet.put_tuned(tensors)
    unet.set_norm(header.norm)
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
    norms = [header.norm for _, header, _ in loaded]
    if len(set(norms)) > 1:
        told = ", ".join(f"{file} with {norm}" for file, norm in zip(motions, norms, strict=True))
        raise UserError(f"These motions were tuned with different norms and cannot be mixed: {told}.")
    variants = [header.variant for _, header, _ in loaded]
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
        for weight, (_, _, tensors) in zip(motions.values(), loaded, strict=True)
    ]
    mix(unet, weighted, unet.image_queries())
    unet.set_norm(norms[0])
    return [metadata for metadata, _, _ in loaded]


def _checked(
    unet: MotionUNet, file: Path, check_base: bool
) -> tuple[dict[str, str], Header, dict[str, Tensor]]:
    """Metadata, header and tensors of an adapter that fits `unet`."""
    metadata = read_metadata(file)
    header = read_header(metadata, file)
    variant = header.variant
    if variant.kind != unet.variant.kind:
        raise UserError(
            f"{file} has motion layers of the kind {variant.kind!r}, and this UNet those of "
            f"{unet.variant.kind!r}. LAMPPipeline.from_motion({str(file)!r}) loads the right one."
        )
    parameters = dict(unet.named_parameters())
    wanted = {name: tuple(parameters[name].shape) for name in unet.names_of(variant.sets)}
    tensors = _read(file, wanted, header.base_model)
    check_tensors(tensors, wanted, file, header.base_model)
    _check_inverted(file, int(unet.config["in_channels"]))
    if check_base:
        _check_base(unet, header, file)
    return metadata, header, tensors


def variant_of(metadata: Mapping[str, str]) -> Variant:
    """Which variant of the method an adapter was tuned as, by its metadata; older files are LAMP's.

    Raises:
        UserError: one that this version does not know.
    """
    return Variant.from_settings(json.loads(metadata.get("variant", "{}")))


def read_metadata(file: str | Path) -> dict[str, str]:
    """The header of a motion adapter as texts, checked (`weights.header.Header`), without its tensors.

    Raises:
        UserError: no such file, not a safetensors file, not a motion adapter that this version reads, or a
            header that cannot be used.
    """
    file = Path(file)
    with _opened(file) as opened:
        metadata = opened.metadata() or {}
    read_header(metadata, file)
    return metadata


def header_of(file: str | Path) -> Header:
    """The header of a motion adapter, typed; raises UserError as `read_metadata`."""
    return read_header(read_metadata(file), Path(file))


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A safetensors file to read from, whose header is not too large to look at."""
    if not file.is_file():
        raise UserError(f"{file} does not exist: give a motion adapter, the .safetensors file of a run.")
    try:
        with open(file, "rb") as raw:
            length = int.from_bytes(raw.read(8), "little")
        if LARGEST_HEADER < length < file.stat().st_size:
            raise UserError(
                f"{file} is no motion adapter: its header has {length:,} bytes, and {LARGEST_HEADER:,} are "
                "the most. Give the .safetensors file of a run."
            )
        with safe_open(file, framework="pt") as opened:
            yield opened
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is not a readable safetensors file ({error}).") from error


def check_tensors(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], file: Path, base: str | None = None
) -> None:
    """Refuse tensors that are not exactly those wanted, by name and shape, or not finite."""
    belongs = _tuned_on(base)
    _check_names(tensors, wanted, file, belongs)
    for name, shape in wanted.items():
        _check_shape(name, tuple(tensors[name].shape), shape, file, belongs)
    _check_finite(tensors, str(file), "It is damaged or its training diverged.")


def _tuned_on(base: str | None) -> str:
    return f" It was tuned on {base!r}." if base else ""


def _check_names(found: Iterable[str], wanted: Mapping[str, Any], file: Path, belongs: str) -> None:
    there = set(found)
    for kind, names in (
        ("lacks tensors of this UNet", wanted.keys() - there),
        ("has tensors unknown to this UNet", there - wanted.keys()),
    ):
        if names:
            raise UserError(
                f"{file} {kind} ({len(names)}, first {min(names)[:200]!r}): it belongs to another model or "
                f"is damaged.{belongs}"
            )


def _check_shape(
    name: str, found: tuple[int, ...], wanted: tuple[int, ...], file: Path, belongs: str
) -> None:
    if found != wanted:
        raise UserError(
            f"{file}: the tensor {name!r} has shape {found}, this UNet needs {wanted}: it belongs to another "
            f"model.{belongs}"
        )


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


def _check_base(unet: MotionUNet, header: Header, file: Path) -> None:
    if _alike(base_fingerprint(unet, variant=header.variant), header.base_fingerprint):
        return
    raise UserError(
        f"{file} was tuned on other weights than this UNet's: its base model is "
        f"{header.base_model or 'unknown'!r}. Load that one (check_base=False tries anyway)."
    )


def of_same_base(one: Header, other: Header) -> bool:
    """Whether two adapters, by their headers, were tuned on the same base model, whatever it was called."""
    return _alike(one.base_fingerprint, other.base_fingerprint)


def _alike(fingerprint: Sequence[float], other: Sequence[float]) -> bool:
    ours, theirs = torch.tensor(fingerprint), torch.tensor(other)
    return ours.shape == theirs.shape and bool((ours - theirs).norm() <= _SAME_BASE * theirs.norm())


def inverted_clip(file: str | Path) -> Tensor | None:
    """The noise that an adapter's clip was inverted to, `1 c f h w`; None where it has none.

    Raises:
        UserError: it is not of that shape, or not of finite floating point numbers.
    """
    file = Path(file)
    with _opened(file) as opened:
        if _INVERTED not in opened.keys():  # noqa: SIM118  (it is no mapping)
            return None
        _check_inverted_shape(opened, file)
        tensor = opened.get_tensor(_INVERTED)
    _check_finite({_INVERTED: tensor}, str(file), "It is damaged: copy it again.")
    return tensor


def _check_inverted(file: Path, channels: int) -> None:
    """Refuse an inverted clip that this UNet's latents do not go with."""
    tensor = inverted_clip(file)
    if tensor is not None and tensor.shape[1] != channels:
        raise UserError(
            f"{file}: the tensor {_INVERTED!r} has {tensor.shape[1]} channels, and this UNet's latents have "
            f"{channels}: it belongs to another model."
        )


def _check_inverted_shape(opened: Any, file: Path) -> None:
    found = opened.get_slice(_INVERTED)
    shape = tuple(found.get_shape())
    if len(shape) != 5 or shape[0] != 1 or 0 in shape:
        raise UserError(
            f"{file}: the tensor {_INVERTED!r} has shape {shape}, not (1, c, f, h, w). Copy it again."
        )
    _check_floats(_INVERTED, found.get_dtype(), file)


def _read(file: Path, wanted: Mapping[str, tuple[int, ...]], base: str | None) -> dict[str, Tensor]:
    """The tuned tensors; they are read only after names, shapes and types are found to be those wanted."""
    belongs = _tuned_on(base)
    with _opened(file) as opened:
        names = [name for name in opened.keys() if name != _INVERTED]  # noqa: SIM118
        _check_names(names, wanted, file, belongs)
        for name in names:
            found = opened.get_slice(name)
            _check_shape(name, tuple(found.get_shape()), wanted[name], file, belongs)
            _check_floats(name, found.get_dtype(), file)
        return {name: opened.get_tensor(name) for name in names}


def _check_floats(name: str, kind: str, file: Path) -> None:
    if kind not in _FLOATS:
        raise UserError(
            f"{file}: the tensor {name!r} is of type {kind}, and an adapter's are floating point numbers "
            f"({', '.join(_FLOATS)}): it is damaged or no adapter."
        )


def _check_finite(tensors: Mapping[str, Tensor], what: str, advice: str) -> None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{what}: the tensor {name!r} holds NaN or infinite values. {advice}")


def _versions() -> dict[str, str]:
    import diffusers

    from lamp_lightning import __version__

    return {"lamp_lightning": __version__, "torch": torch.__version__, "diffusers": diffusers.__version__}
