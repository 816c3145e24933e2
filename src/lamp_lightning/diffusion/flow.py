"""Flow matching: noise levels of models that go from noise to pictures on straight lines.

Between clean latents and noise lies `x_s = (1 - s) * clean + s * noise`, and the model predicts the velocity
`noise - clean` (Lipman et al. 2023, arXiv 2210.02747; Esser et al. 2024, arXiv 2403.03206, section 2). A
level s from 0 to 1 is the timestep `s * num_train_timesteps`. Where many tokens make a picture, levels are
shifted towards noise (Esser et al. 2024, section 5.3.2): `s' = shift * s / (1 + (shift - 1) * s)`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from lamp_lightning.runtime.errors import UserError

_KEPT = "_flow"  # of a scheduler's config: the model's levels, which not every scheduler class has room for
# The scheduler of flow matching that goes the way of a diffusion model's. DDIM is Euler's method, too.
_EULER, _HEUN = "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"
COUNTERPARTS = {
    "DDIMScheduler": _EULER,
    "EulerDiscreteScheduler": _EULER,
    "HeunDiscreteScheduler": _HEUN,
    _EULER: _EULER,
    _HEUN: _HEUN,
}
# Schedulers of diffusion models that know the levels of flow matching ("flow sigmas"), too.
_WITH_FLOW_SIGMAS = (
    "UniPCMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
)
_NAMES = {  # of the levels in a scheduler's config
    "num_train_timesteps": "num_train_timesteps",
    "base_shift": "base_shift",
    "max_shift": "max_shift",
    "base_tokens": "base_image_seq_len",
    "max_tokens": "max_image_seq_len",
}
_OF_DIFFUSION = ("timestep_spacing",)  # options about timesteps that flow matching spaces by its shift


@dataclass(frozen=True)
class FlowLevels:
    """The noise levels that a flow-matching model was trained on.

    Args:
        num_train_timesteps: the timestep of pure noise.
        shift: of the levels, the same for all sizes.
        dynamic: "exponential" or "linear": the shift depends on the number of tokens of a picture, as in
            diffusers' `use_dynamic_shifting`; None: it does not.
        base_shift, max_shift: of that, for `base_tokens` and `max_tokens`; between them it grows linearly.
        base_tokens, max_tokens: see there.
        patch_size: rows and columns of latents that make one token.
        of_clips: the tokens of all frames of a clip count, as in video models. Those sample along levels that
            fall evenly from 1 to one step above 0, before the shift.
        terminal: the last level before 0, to which shifted levels are stretched; None: they are not.

    Example:
        >>> FlowLevels(shift=3.0).shifted(0.5, (32, 32))
        0.75
    """

    num_train_timesteps: int = 1000
    shift: float = 1.0
    dynamic: str | None = None
    base_shift: float = 0.5
    max_shift: float = 1.15
    base_tokens: int = 256
    max_tokens: int = 4096
    patch_size: int = 2
    of_clips: bool = False
    terminal: float | None = None

    @classmethod
    def of(
        cls, config: Mapping[str, Any], patch_size: int | None = None, of_clips: bool = False
    ) -> FlowLevels:
        """From the config of a diffusers scheduler; `patch_size` where that does not know it."""
        if (kept := config.get(_KEPT)) is not None:
            return cls(**{each.name: kept[each.name] for each in fields(cls) if each.name in kept})
        found = {ours: config[theirs] for ours, theirs in _NAMES.items() if config.get(theirs) is not None}
        if config.get("use_dynamic_shifting"):
            found["dynamic"] = config.get("time_shift_type") or "exponential"
        if patch_size is not None:
            found["patch_size"] = patch_size
        found |= {"of_clips": of_clips, "terminal": config.get("shift_terminal")}
        return cls(shift=float(config.get("shift") or config.get("flow_shift") or 1.0), **found)

    def mu(self, size: tuple[int, ...]) -> float:
        """What diffusers' schedulers take as `mu`, for latents of that size.

        The size is rows and columns, everywhere here; before them, the number of frames may stand.
        """
        frames = size[0] if self.of_clips and len(size) == 3 else 1
        tokens = frames * (size[-2] // self.patch_size) * (size[-1] // self.patch_size)
        slope = (self.max_shift - self.base_shift) / max(self.max_tokens - self.base_tokens, 1)
        return self.base_shift + slope * (tokens - self.base_tokens)

    def shift_at(self, size: tuple[int, ...]) -> float:
        """The shift for latents of that size."""
        if self.dynamic is None:
            return self.shift
        return math.exp(self.mu(size)) if self.dynamic == "exponential" else self.mu(size)

    def shifted(self, level: float, size: tuple[int, ...]) -> float:
        """A level from 0 to 1 as the model sees it at that size."""
        shift = self.shift_at(size)
        return shift * level / (1 + (shift - 1) * level)

    def drawn(self, generator: torch.Generator, size: tuple[int, ...]) -> Tensor:
        """A random timestep to train at, float32 `(1,)`, logit-normal (Esser et al. 2024, section 3.1)."""
        level = torch.randn(1, generator=generator).sigmoid()
        shift = self.shift_at(size)
        return shift * level / (1 + (shift - 1) * level) * self.num_train_timesteps


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler's config is of flow matching.

    Example:
        >>> from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
        >>> is_flow(DDIMScheduler().config), is_flow(FlowMatchEulerDiscreteScheduler().config)
        (False, True)
    """
    name = str(config.get("_class_name", ""))
    flow = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    # The config of a scheduler in memory does not name its class.
    own = "FlowMatch" in name or ("shift" in config and "beta_schedule" not in config)
    return _KEPT in config or own or bool(flow)


def flow_scheduler(name: str, levels: FlowLevels, options: Mapping[str, Any] | None = None) -> Any:
    """The scheduler of diffusers for a flow-matching model.

    Args:
        name: of a scheduler's class. `DDIMScheduler` and `EulerDiscreteScheduler` mean Euler's method,
            `HeunDiscreteScheduler` Heun's; UniPC, DPM-Solver++ and DEIS use flow sigmas.
        levels: of the model.
        options: of the class. How a diffusion model's timesteps are spaced has no meaning here.

    Raises:
        UserError: a scheduler that cannot sample from such a model, or options that it does not know.
    """
    import diffusers

    if name not in COUNTERPARTS and name not in _WITH_FLOW_SIGMAS:
        raise UserError(
            f"{name} cannot sample from a model of flow matching: take one of "
            f"{', '.join([*COUNTERPARTS, *_WITH_FLOW_SIGMAS])}."
        )
    kind: Any = getattr(diffusers, COUNTERPARTS.get(name, name))
    takes = inspect.signature(kind.__init__).parameters
    given = {key: value for key, value in (options or {}).items() if key not in _OF_DIFFUSION}
    if unknown := sorted(given.keys() - takes.keys()):
        raise UserError(
            f"sampler.scheduler_options has {', '.join(unknown)}, which {kind.__name__} does not know; it "
            f"knows {', '.join(sorted(takes.keys() - {'self'}))}."
        )
    settings: dict[str, Any] = {"num_train_timesteps": levels.num_train_timesteps}
    if name in _WITH_FLOW_SIGMAS:
        settings |= {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    settings["flow_shift" if name in _WITH_FLOW_SIGMAS else "shift"] = levels.shift
    if levels.dynamic is not None:
        settings |= {"use_dynamic_shifting": True, "time_shift_type": levels.dynamic}
        if name not in _WITH_FLOW_SIGMAS:
            settings |= {theirs: getattr(levels, ours) for ours, theirs in _NAMES.items()}
    if levels.terminal is not None:
        settings["shift_terminal"] = levels.terminal
    if unknown := sorted(settings.keys() - takes.keys()):
        raise UserError(
            f"{kind.__name__} has no {unknown[0]}, and this model's noise levels "
            f"{'depend on the size' if levels.dynamic is not None else 'need it'}: take {_EULER} or "
            "UniPCMultistepScheduler."
        )
    scheduler = kind(**settings | given)
    own = {key: given[key] for key in ("shift", "flow_shift") if key in given}  # asked for: the levels', then
    kept = asdict(levels) | ({"shift": next(iter(own.values()))} if own else {})
    scheduler.register_to_config(**{_KEPT: kept})
    return scheduler


def keep_levels(scheduler: Any, patch_size: int, of_clips: bool) -> None:
    """Let a scheduler of flow matching that is diffusers' own know what its configuration does not say."""
    if _KEPT not in scheduler.config:
        kept = asdict(FlowLevels.of(scheduler.config, patch_size, of_clips))
        scheduler.register_to_config(**{_KEPT: kept})


def set_flow_steps(
    scheduler: Any, steps: int, device: Any, size: tuple[int, ...], timesteps: list[int] | None = None
) -> None:
    """Give a scheduler of flow matching so many steps for latents of that size, or these timesteps.

    Raises:
        UserError: timesteps for a scheduler or a model that takes none, or too few steps.
    """
    levels = FlowLevels.of(scheduler.config)
    if levels.terminal is not None and (timesteps is not None or steps < 2):
        raise UserError(
            f"The noise levels of this model are stretched to end at {levels.terminal:g}: give "
            "num_inference_steps of at least 2, and no timesteps."
        )
    dynamic = {} if levels.dynamic is None else {"mu": levels.mu(size)}
    if timesteps is None and levels.of_clips and type(scheduler).__name__ == _EULER:
        evenly = torch.linspace(1.0, 1 / steps, steps, dtype=torch.float64).tolist()
        return scheduler.set_timesteps(sigmas=evenly, device=device, **dynamic)
    if timesteps is None:
        return scheduler.set_timesteps(steps, device=device, **dynamic)
    takes = inspect.signature(scheduler.set_timesteps).parameters
    if type(scheduler).__name__ != _EULER or "sigmas" not in takes:
        raise UserError(
            f"{type(scheduler).__name__} takes no timesteps of one's own with a model of flow matching: give "
            f"num_inference_steps, or scheduler={_EULER}."
        )
    shift = levels.shift_at(size)  # the scheduler shifts what it is given: give it what becomes these
    wanted = [timestep / levels.num_train_timesteps for timestep in timesteps]
    before = [level / (shift - (shift - 1) * level) for level in wanted]
    scheduler.set_timesteps(sigmas=before, device=device, **dynamic)
