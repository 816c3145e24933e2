"""How a motion is painted: the settings of a sampler, as configs and adapters carry them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from lamp_lightning.diffusion.tricks import NoiseSharing
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.reading import Schema

Start = Literal["noise", "inversion", "warp", "still"]
MOST_FRAMES = 10_000  # of one video: twenty minutes at 8 frames per second
LONGEST_SIDE = 16_384  # in pixels

Steps = Annotated[int, Field(ge=1, le=1000)]  # as many as the models have noise levels
Guidance = Annotated[float, Field(ge=0, le=1000)]
Share = Annotated[float, Field(ge=0, le=1)]
Frames = Annotated[int, Field(ge=1, le=MOST_FRAMES)]
Side = Annotated[int, Field(ge=1, le=LONGEST_SIDE)]
Size = Annotated[tuple[Side, Side], Field(strict=False)]  # JSON and YAML know lists, not tuples
Word = Annotated[str, Field(max_length=200)]
_LIMITS = Field(ge=-(10**6), le=10**6)  # some options are lengths of lists that are made at once
Option = bool | Annotated[int, _LIMITS] | Annotated[float, _LIMITS] | Word | None
Several = Annotated[list[Option], Field(max_length=10_000)]
Options = Annotated[Mapping[Word, Option | Several], Field(max_length=50)]


class Memory(Schema):
    """What saves memory while painting; tiles change the picture a little where they meet."""

    attention_slicing: bool | None = None
    vae_slicing: bool | None = None
    vae_tiling: bool | None = None


@dataclass(frozen=True)
class Sampler:
    """One config of the group ``sampler``, and the size of what it paints.

    What stands in a file is checked against these types and ranges (`weights.header`, `record_schema`).

    ``start`` is what frames begin as: "noise"; "inversion": the noise that the tuned clip was inverted to, as
    in Tune-A-Video (Wu et al. 2023, section 3.3); "warp": frame 0 denoised part of the way and moved a little
    from frame to frame, as in Text2Video-Zero (`sampling.warp`); "still": the first frame, which they remain.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    scheduler: Word = "DDIMScheduler"
    scheduler_options: Options = field(default_factory=dict)  # beside the noise levels
    num_inference_steps: Steps = 50
    guidance_scale: Guidance = 12.5
    guidance_rescale: Share = 0.0
    paint_guidance_scale: Guidance | None = None  # of first frames; None: as above, or the painter's
    paint_steps: Steps | None = None  # likewise
    shared_noise: Share = 0.2
    noise_sharing: NoiseSharing = "authors"
    start: Start = "noise"
    # Of "warp": pixels of a picture of 512 that frames move each, right and down.
    warp_strength: Annotated[float, Field(ge=0, le=10_000)] = 12.0
    adain: bool = True
    histogram_matching: bool = True
    negative_prompt: Annotated[str, Field(max_length=100_000)] | None = None
    fps: Annotated[float, Field(gt=0, lt=1000)] = 8
    num_frames: Frames = 16
    window: Frames = 128  # frames that are sampled at once; longer videos go on in windows
    overlap: Frames = 8  # known frames at the beginning of each further window
    size: Size | None = None  # height, width

    @classmethod
    def from_config(cls, cfg: Any) -> Sampler:
        """From a run's config: ``sampler``, and ``data`` for frames and size."""
        data = {"num_frames": cfg.data.num_frames, "size": cfg.data.size}
        return cls().changed({**cfg.sampler, **data})

    def settings(self) -> dict[str, Any]:
        """All values, as JSON knows them."""
        return {**asdict(self), "size": None if self.size is None else list(self.size)}

    def changed(self, values: Mapping[str, Any]) -> Sampler:
        """With those of ``values`` that are known and not None.

        Another scheduler comes without the options of the one before.
        """
        known = {field.name for field in fields(self)}
        given = {key: value for key, value in values.items() if key in known and value is not None}
        if "size" in given:
            given["size"] = tuple(given["size"])
        if given.get("scheduler", self.scheduler) != self.scheduler:
            given.setdefault("scheduler_options", {})
        if "scheduler_options" in given:
            given["scheduler_options"] = _plain(given["scheduler_options"])
        return replace(self, **given)

    def make_scheduler(self, config: Any) -> Any:
        """The diffusers scheduler of that name with the noise levels of ``config``.

        Raises:
            UserError: no such scheduler, or options that it does not know or cannot use.
        """
        import diffusers

        known = [name for name in dir(diffusers) if name.endswith("Scheduler")]
        if self.scheduler not in known:
            raise UserError(
                f"sampler.scheduler={self.scheduler} is no scheduler of diffusers; there are, among others, "
                "DDIMScheduler, DPMSolverMultistepScheduler and EulerDiscreteScheduler."
            )
        kind, options = getattr(diffusers, self.scheduler), dict(self.scheduler_options)
        takes = sorted(set(inspect.signature(kind.__init__).parameters) - {"self"})
        unknown = sorted(set(options) - set(takes))
        if unknown:
            raise UserError(
                f"sampler.scheduler_options has {', '.join(unknown)}, which {self.scheduler} does not know; "
                f"it knows {', '.join(takes)}."
            )
        try:
            scheduler = kind.from_config(config, **options)
            _try(copy.deepcopy(scheduler), self.num_inference_steps)
        except Exception as error:  # schedulers look at most options late, and say so in many ways
            what = f"sampler.scheduler_options={options}" if options else "this model"
            raise UserError(
                f"{self.scheduler} cannot use {what} with sampler.num_inference_steps="
                f"{self.num_inference_steps}: {' '.join(str(error).split()) or type(error).__name__}"
            ) from error
        return scheduler


def _try(scheduler: Any, steps: int) -> None:
    """One step of nothing, as `denoise` takes it; raises what a scheduler of another kind raises there."""
    import torch

    scheduler.set_timesteps(steps)
    latents, timestep = torch.zeros(1, 4, 1, 2, 2) * scheduler.init_noise_sigma, scheduler.timesteps[0]
    with torch.random.fork_rng([]):  # some draw noise in each step
        scheduler.step(scheduler.scale_model_input(latents, timestep), timestep, latents, return_dict=False)


def _plain(options: Any) -> dict[str, Any]:
    """Scheduler options as JSON knows them."""
    if not isinstance(options, Mapping):
        raise UserError(
            "sampler.scheduler_options must be names and values, like {timestep_spacing: trailing}, or null, "
            f"but is {options!r}."
        )
    several = {k for k, v in options.items() if isinstance(v, Sequence) and not isinstance(v, str)}
    return {str(k): list(v) if k in several else v for k, v in options.items()}
