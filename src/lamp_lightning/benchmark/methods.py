"""LAMP and its rivals behind one interface: prompts, perhaps first frames, and seeds to videos.

The methods are the options of the config group `method`; `python -m lamp_lightning.train method=<name>`
makes a run of each, those without training included (`trainer.max_steps=0`).

==================  ====================================================  ===================================
method              what it is                                            a given first frame
==================  ====================================================  ===================================
lamp                LAMP with the recipe that suits the model             stays clean; all frames look at it
lamp_anchored       LAMP that keeps closer to its first frame             likewise
lamp_plus           lamp_anchored, tuned by Muon                          likewise
lamp_scheduled      lamp_plus by scheduled sampling                       likewise
lamp_known          LAMP with any known frames                            likewise, and further ones
lamp_paper          LAMP by the authors' recipe                           likewise
untuned             the inflated image model (no training)                likewise
frozen              no motion (no training)                               is every frame
text2video_zero     Khachatryan et al. 2023 (no training)                 its noised latents are moved
tune_a_video        Wu et al. 2023, tuned on one clip                     replaces frame 0 at each step
animatediff         Guo et al. 2024, motion modules tuned on the clips    replaces frame 0 at each step
motion_director     Zhao et al. 2024: single frames' look in a LoRA       replaces frame 0 at each step
image_to_video      a LoRA of a video model, LTX-Video (model=ltx)        stays clean
==================  ====================================================  ===================================

Without first frames the first eight generate one with the untuned image model, the last five all frames
from the prompt, as published. "Replaces": frame 0 is the given one with noise of the step's level, as a model
that was trained without conditions is given some (Ho et al. 2022, "Video Diffusion Models", section 3.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.models.adapter import read_metadata
from lamp_lightning.models.devices import evaluation, mixed_precision
from lamp_lightning.models.registry import inflated
from lamp_lightning.runtime.command_settings import Train
from lamp_lightning.runtime.config import composed, options
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.hardware import hardware
from lamp_lightning.runtime.precision import sampling_dtype
from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.runtime.schema import check_settings
from lamp_lightning.sample.generate import generate_batch
from lamp_lightning.sample.loading import load, load_base_of, spare_memory
from lamp_lightning.sample.motions import find_adapter
from lamp_lightning.sample.pipeline import LAMPPipeline
from lamp_lightning.train.run import variant_from

if TYPE_CHECKING:
    from lamp_lightning.sample.pipeline import Progress


@dataclass(frozen=True)
class Method:
    """A method that is ready to make videos. Made by `load_method` or `training_free`."""

    name: str
    pipeline: LAMPPipeline
    sampler: Sampler
    precision: str = "32-true"

    def with_sampler(self, **changes: Any) -> Method:
        """The same with other settings of its sampler (`Sampler`), such as `num_inference_steps`."""
        return replace(self, sampler=self.sampler.changed(changes))

    def generate(
        self,
        prompts: Sequence[str],
        first_frames: Sequence[Any] | None = None,
        seeds: Sequence[int] | None = None,
        *,
        known: Mapping[int, Sequence[Any]] | None = None,
        loop: bool = False,
        at_once: int = 4,
        noise: torch.Tensor | None = None,
        progress: Progress | None = None,
    ) -> list[np.ndarray]:
        """Make a video for each prompt.

        Args:
            prompts: what is to be seen.
            first_frames: a picture for each (path, PIL image, array `(h, w, 3)`, ...); the module says what
                each method does with and without them.
            seeds: of each video's noise; None: 0, 1, 2, ...
            known: further frames that are given, by their number, one for each video.
            loop: whether the videos end where they begin.
            at_once: videos in a batch; the same number gives the same bits.
            noise: latents to begin at instead of drawn noise, `(n, c, f, h, w)`.
            progress: called as by the pipeline.

        Returns:
            Videos, each uint8 `(f, h, w, 3)`. UserError where the numbers of arguments differ.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        seeds = range(len(prompts)) if seeds is None else list(seeds)
        further = [(f"known frames {number}", each) for number, each in (known or {}).items()]
        for name, given in (("first frames", first_frames), ("seeds", seeds), *further):
            if given is not None and len(given) != len(prompts):
                raise UserError(f"{len(given)} {name} do not go with {len(prompts)} prompts: give one each.")
        videos: list[np.ndarray] = []
        unet = self.pipeline.unet
        with evaluation(unet), mixed_precision(unet.device, self.precision):
            for k in range(0, len(prompts), at_once):
                part = slice(k, k + at_once)
                videos += generate_batch(
                    self.pipeline,
                    prompts[part],
                    self.sampler,
                    seeds=seeds[part],
                    first_frames=None if first_frames is None else list(first_frames[part]),
                    known={number: list(each[part]) for number, each in (known or {}).items()},
                    loop=loop,
                    noise=None if noise is None else noise[part],
                    progress=progress,
                )
        return videos


def load_method(run: str | Path, device: str = "auto", precision: str | None = None) -> Method:
    """The method of a run folder or an adapter file, as it was tuned and is sampled.

    `device`: "auto" for a GPU where there is one. `precision`: as `trainer.precision`; None: the run's, for
    an adapter the fast one of the device. Raises UserError where there are no weights.
    """
    adapter = find_adapter(run)
    name = read_metadata(adapter.file).get("method", "lamp")
    device = _device(device)
    if precision is None:
        cfg = None if adapter.run is None else RunFolder.open(adapter.run.path)[1]
        precision = hardware(device).precision if cfg is None else str(cfg.trainer.precision)
    pipeline = load(adapter, device, sampling_dtype(adapter.dtype, precision))
    return Method(name, pipeline, adapter.sampler, precision)


def training_free(name: str, overrides: Sequence[str] = (), device: str = "auto") -> Method:
    """A method that needs no run: frozen, untuned or text2video_zero.

    `overrides`: of the train command, such as `model=sd15` or `sampler.num_inference_steps=20`. `device`:
    "auto" for a GPU where there is one. Raises UserError for another method.
    """
    if name not in options("method"):
        raise UserError(f"There is no method {name!r}; there are {', '.join(options('method'))}.")
    cfg = composed("train", [f"method={name}", *overrides])
    check_settings(Train, cfg)
    if cfg.trainer.max_steps:
        raise UserError(
            f"The method {name} is tuned: make a run with python -m lamp_lightning.train method={name}, and "
            "load_method its folder."
        )
    base = load_base_of(cfg.model, sampling_dtype(cfg.model.dtype, cfg.trainer.precision))
    pipeline = LAMPPipeline.from_base(base, inflated(base.unet, cfg.model.norm, variant_from(cfg)))
    pipeline.set_progress_bar_config(disable=True)
    spare_memory(pipeline, cfg.model)
    return Method(name, pipeline.to(_device(device)), Sampler.from_config(cfg), cfg.trainer.precision)


def _device(device: str) -> str:
    return hardware().device if device == "auto" else device
