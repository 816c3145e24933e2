"""How a motion is painted: the settings of a sampler, as configs and adapters carry them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from lamp_lightning.errors import UserError
from lamp_lightning.sampling.tricks import NoiseSharing

Start = Literal["noise", "inversion", "warp", "still"]


@dataclass(frozen=True)
class Sampler:
    """One config of the group ``sampler``, and the size of what it paints.

    ``start`` is what frames begin as: "noise"; "inversion": the noise that the tuned clip was inverted to, as
    in Tune-A-Video (Wu et al. 2023, section 3.3); "warp": frame 0 denoised part of the way and moved a little
    from frame to frame, as in Text2Video-Zero (`sampling.warp`); "still": the first frame, which they remain.
    """

    scheduler: str = "DDIMScheduler"
    scheduler_options: Mapping[str, Any] = field(default_factory=dict)  # beside the noise levels
    num_inference_steps: int = 50
    guidance_scale: float = 12.5
    guidance_rescale: float = 0.0
    paint_guidance_scale: float | None = None  # of first frames; None: as above, or the painter's
    paint_steps: int | None = None  # likewise
    shared_noise: float = 0.2
    noise_sharing: NoiseSharing = "authors"
    start: Start = "noise"
    warp_strength: float = 12.0  # of "warp": pixels of a picture of 512 that frames move each, right and down
    adain: bool = True
    histogram_matching: bool = True
    negative_prompt: str | None = None
    fps: float = 8
    num_frames: int = 16
    window: int = 128  # frames that are sampled at once; longer videos go on in windows
    overlap: int = 8  # known frames at the beginning of each further window
    size: tuple[int, int] | None = None  # height, width

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
        if not options:
            return kind.from_config(config)
        try:
            scheduler = kind.from_config(config, **options)
            scheduler.set_timesteps(self.num_inference_steps)  # some options are not looked at before
        except (ValueError, TypeError, NotImplementedError, ImportError) as error:
            raise UserError(
                f"{self.scheduler} cannot use sampler.scheduler_options={options}: {error}"
            ) from error
        return scheduler


def _plain(options: Any) -> dict[str, Any]:
    """Scheduler options as JSON knows them."""
    if not isinstance(options, Mapping):
        raise UserError(
            "sampler.scheduler_options must be names and values, like {timestep_spacing: trailing}, or null, "
            f"but is {options!r}."
        )
    several = {k for k, v in options.items() if isinstance(v, Sequence) and not isinstance(v, str)}
    return {str(k): list(v) if k in several else v for k, v in options.items()}
