"""The videos that the sample command is asked for: prompts, first frames and seeds make a list of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from lamp_lightning.data.captions import prompt_of
from lamp_lightning.data.fit import size_of_aspect
from lamp_lightning.data.video import safe_name
from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.models.adapter import header_of
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.reading import check_text, read_text
from lamp_lightning.sample.known import Picture, check_known, find_known, find_pictures

if TYPE_CHECKING:
    from lamp_lightning.sample.motions import Adapter

MOST_PROMPTS = 10_000  # of one file
MOST_VIDEOS = 100_000  # of one command


@dataclass(frozen=True)
class Output:
    """Where videos go: the folder, the beginning of their names (None: prompt or picture), their formats."""

    folder: Path
    stem: str | None
    formats: list[str]


@dataclass(frozen=True)
class Video:
    """A video on its way from a prompt to files.

    `find_places` adds its final name and settings, `generate` its frames, and the gallery its record.
    """

    prompt: str
    seed: int = 0
    sampler: Sampler = field(default_factory=Sampler)  # its size is that of the frames that are generated
    picture: Picture | None = None  # the given first frame
    fit: str = "crop"  # of the pictures, or "pad"
    name: str = ""  # of its files
    settings: dict[str, Any] = field(default_factory=dict)  # what decides how it looks, see `settings_of`
    record: dict[str, Any] | None = None  # where its files are finished
    frames: Any = None  # uint8 `f h w 3`, where they are in memory
    batch: int = 1  # how many videos were generated at once with it
    place: int = 0  # which of them it is
    known: tuple[tuple[int, Picture], ...] = ()  # further frames that are given, by their places
    loop: bool = False  # whether it ends where it begins


def find_videos(
    cfg: DictConfig,
    adapter: Adapter,
    stem: str | None,
    *,
    own_size: Callable[[], tuple[int, int]],
    unit: Callable[[], int],
) -> list[Video]:
    """The videos of the sample command's config: each picture with each prompt and each seed.

    Args:
        cfg, adapter: the command's config and the motion.
        stem: the beginning of the files' names; None: the prompt, the picture's name, or both.
        own_size: height and width of the model, asked where the adapter has none.
        unit: what sizes are multiples of, asked for `size=auto`.

    Raises:
        UserError: a file that is missing, empty or no picture, or settings that contradict each other.
    """
    prompts = find_prompts(cfg.prompt, cfg.prompts)
    pictures = find_pictures(cfg.first_frame)
    known = find_known(cfg.known, cfg.known_every)
    seeds = find_seeds(cfg.seed, cfg.count, cfg.seeds)
    single = isinstance(cfg.first_frame, str) and Path(cfg.first_frame).expanduser().is_file()
    if 0 in known:
        if pictures:
            raise UserError("known gives frame 0, and so does first_frame: give one of them.")
        pictures, single = [known.pop(0)], True
    sampler = _sampler(cfg, adapter, bool(pictures), bool(known), own_size)
    places = check_known(header_of(adapter.file).variant, known, cfg.loop, sampler.num_frames)
    _check_shapes(cfg.fit, pictures, places)
    pairs: list[tuple[Picture | None, str]] = []
    given: list[Picture | None] = [*pictures] or [None]
    for picture in given:
        named = None if picture is None or single else prompt_of(picture.file)
        pairs += [(picture, prompt) for prompt in prompts or [named or adapter.prompt]]
    if len(pairs) * len(seeds) > MOST_VIDEOS:
        raise UserError(
            f"These are {len(pairs) * len(seeds):,} videos, and {MOST_VIDEOS:,} are the most: give fewer "
            "prompts, pictures or seeds."
        )
    videos = []
    for picture, prompt in dict.fromkeys(pairs):
        settings = sampler
        if cfg.size == "auto" and picture is not None:
            like = sampler.size or own_size()
            settings = sampler.changed({"size": size_of_aspect(*picture.shape, like, unit())})
        words = [] if picture is None else [picture.file.stem]
        words += [prompt] if prompts or picture is None else []
        for seed in seeds:
            name = f"{safe_name(' '.join(words))}_seed{seed}"
            if stem is not None:
                name = f"{stem}_{name}" if len(pairs) > 1 else f"{stem}_seed{seed}"
                name = stem if len(pairs) == len(seeds) == 1 else name
            video = Video(prompt, seed, settings, picture, cfg.fit, name)
            videos.append(replace(video, known=tuple(places.items()), loop=cfg.loop))
    return videos


def _check_shapes(fit: str, first: Sequence[Picture], known: Mapping[int, Picture]) -> None:
    """Raises UserError where pictures of one video would be padded differently."""
    shapes = {picture.where: picture.shape for picture in (*first, *known.values())}
    if fit == "pad" and known and len(set(shapes.values())) > 1:
        one, *_, other = sorted(shapes, key=lambda name: shapes[name])
        raise UserError(
            f"fit=pad shows whole pictures, and those of one video differ in size: {one} has "
            f"{shapes[one][1]}x{shapes[one][0]}, {other} {shapes[other][1]}x{shapes[other][0]}. "
            "Take fit=crop."
        )


def _sampler(
    cfg: DictConfig, adapter: Adapter, pictures: bool, known: bool, own_size: Callable[[], tuple[int, int]]
) -> Sampler:
    """The motion's settings with what is said otherwise.

    By default a given first frame keeps its colours. Of several known frames each has its own.
    """
    auto = cfg.size == "auto"
    if auto and not pictures:
        raise UserError("size=auto takes the shape of a picture: give one with first_frame=<file or folder>.")
    given = {**cfg.sampler, "num_frames": cfg.num_frames, "size": None if auto else cfg.size}
    if pictures and cfg.sampler.histogram_matching is None:
        given["histogram_matching"] = not known
    sampler = adapter.sampler.changed(given)
    return sampler if sampler.size is not None else sampler.changed({"size": own_size()})


def find_seeds(seed: int, count: int, seeds: Any) -> Sequence[int]:
    """`seeds`, or `count` of them from `seed` on, each once."""
    found: Sequence[int] = range(seed, seed + count)
    if seeds is not None:
        found = list(dict.fromkeys(seeds if OmegaConf.is_list(seeds) else [seeds]))
    if max(found) >= 2**63:
        raise UserError(f"The seed {max(found)} is too large: 2^63 - 1 is the largest.")
    return found


def find_prompts(prompt: Any, file: Any) -> list[str]:
    """The prompts that `prompt=` (a text or a list) or `prompts=` (a file) gives; none where neither does.

    A file has one on each line; empty lines, and those that begin with #, are left out.
    """
    if file is None:
        texts = list(prompt) if OmegaConf.is_list(prompt) else [prompt]
        return [str(text).strip() for text in texts if text is not None and str(text).strip()]
    if prompt is not None:
        raise UserError("Give either prompt=<text> or prompts=<file>, not both.")
    path = Path(str(file)).expanduser()
    lines = [line.strip() for line in read_text(path, what="prompts").splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise UserError(f"prompts={path} has no prompts: write one on each line.")
    if len(found) > MOST_PROMPTS:
        raise UserError(
            f"prompts={path} has {len(found):,} prompts, and {MOST_PROMPTS:,} are the most. Split it."
        )
    return [check_text(line, file=path, what="a prompt") for line in found]
