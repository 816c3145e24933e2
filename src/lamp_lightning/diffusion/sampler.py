"""How a video is sampled: the settings of a sampler, as configs, adapters and records carry them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from lamp_lightning.diffusion.flow import FlowLevels, flow_scheduler, is_flow, set_flow_steps
from lamp_lightning.diffusion.schedule import first_scale, model_input, set_steps
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.reading import Schema
from lamp_lightning.runtime.schema import setting, usable
from lamp_lightning.runtime.settings import Frames, SamplerSettings, Size


class Memory(Schema):
    """What saves memory while sampling; tiles change the picture a little where they meet."""

    attention_slicing: bool | None = None
    vae_slicing: bool | None = None
    vae_tiling: bool | None = None


class Sampler(SamplerSettings):
    """One config of the group `sampler`, and the size of the video.

    `start` is what frames begin as: "noise"; "first_frame": noise over the blurred first frame
    (`diffusion.first_frame`); "inversion": the noise that the tuned clip was inverted to, as in Tune-A-Video
    (Wu et al. 2023, section 3.3); "warp": frame 0 denoised part of the way and moved a little in each frame
    (`diffusion.warp`); "still": the first frame, which they remain.

    Example:
        >>> Sampler().num_inference_steps
        50
        >>> Sampler().changed({"shared_noise": 0.5, "size": [64, 64]}).size
        (64, 64)
    """

    num_frames: Frames = setting(16, "Frames of the video")
    size: Size | None = setting(None, "Height and width in pixels")

    @classmethod
    def from_config(cls, cfg: Any) -> Sampler:
        """The sampler of a run's config: `sampler`, and `data` for frames and size."""
        return cls().changed({**cfg.sampler, "num_frames": cfg.data.num_frames, "size": cfg.data.size})

    def settings(self) -> dict[str, Any]:
        """All values, as JSON knows them."""
        return self.model_dump(mode="json")

    def changed(self, values: Mapping[str, Any]) -> Sampler:
        """The sampler with those of `values` that are known and not None; raises UserError for a wrong one.

        Another scheduler comes without the options of the one before; timesteps say how many steps there are,
        and another number of steps comes without them.
        """
        known = type(self).model_fields
        given = {key: _plain(value) for key, value in values.items() if key in known and value is not None}
        if given.get("scheduler", self.scheduler) != self.scheduler:
            given.setdefault("scheduler_options", {})
        if isinstance(given.get("timesteps"), list):
            given["num_inference_steps"] = len(given["timesteps"])
        elif given.get("num_inference_steps", self.num_inference_steps) != self.num_inference_steps:
            given["timesteps"] = None
        return usable(type(self), "sampler", {**dict(self), **given})

    def set_timesteps(self, scheduler: Any, device: Any, size: tuple[int, ...]) -> None:
        """Give a scheduler its steps: so many, or these timesteps.

        Args:
            scheduler, device: that and where its timesteps are to be.
            size: frames, rows and columns of the latents, on which some noise levels of flow matching
                depend; rows and columns will do for image models.

        Raises:
            UserError: timesteps that it does not take.
        """
        own = None if self.timesteps is None else list(self.timesteps)
        if is_flow(scheduler.config):
            return set_flow_steps(scheduler, self.num_inference_steps, device, size, own)
        if own is None:
            return scheduler.set_timesteps(self.num_inference_steps, device=device)
        if "timesteps" not in inspect.signature(scheduler.set_timesteps).parameters:
            raise UserError(
                f"{type(scheduler).__name__} takes no timesteps of one's own: give num_inference_steps, or a "
                "scheduler that does, such as EulerDiscreteScheduler or DPMSolverMultistepScheduler."
            )
        try:
            scheduler.set_timesteps(timesteps=own, device=device)
        except ValueError as error:
            raise UserError(f"timesteps={own} cannot be used: {error}") from error

    def make_scheduler(self, config: Any) -> Any:
        """The diffusers scheduler of that name with the noise levels of `config`.

        For a model of flow matching it is the one that goes the same way, see `flow.flow_scheduler`.

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
        flow = is_flow(config)
        if not flow and is_flow({"_class_name": self.scheduler, **options}):
            raise UserError(
                f"{self.scheduler} with sampler.scheduler_options={options} samples from models of flow "
                "matching, and this model is none: take DDIMScheduler or another of diffusion models."
            )
        takes = sorted(set(inspect.signature(kind.__init__).parameters) - {"self"})
        unknown = sorted(set(options) - set(takes))
        if unknown and not flow:
            raise UserError(
                f"sampler.scheduler_options has {', '.join(unknown)}, which {self.scheduler} does not know; "
                f"it knows {', '.join(takes)}."
            )
        try:
            if flow:
                scheduler = flow_scheduler(self.scheduler, FlowLevels.of(config), options)
            else:
                scheduler = kind.from_config(config, **options)
            _try(copy.deepcopy(scheduler), self.num_inference_steps)
        except UserError:
            raise
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

    set_steps(scheduler, steps, "cpu", (2, 2))
    latents, timestep = torch.zeros(1, 4, 1, 2, 2) * first_scale(scheduler), scheduler.timesteps[0]
    with torch.random.fork_rng([]):  # some draw noise in each step
        scheduler.step(model_input(scheduler, latents, timestep), timestep, latents, return_dict=False)


def _plain(value: Any) -> Any:
    """A value of a config as plain data."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    return value
