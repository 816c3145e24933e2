"""The motions in a pipeline with a video backbone, and how they are sampled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from lamp_lightning.diffusion.sampler import Sampler
from lamp_lightning.models.adapter import header_of, inverted_clip
from lamp_lightning.models.base.load import load_base_model
from lamp_lightning.models.registry import inflated
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.hub import OPTIONS, motion_file
from lamp_lightning.sample.components import PipelineComponents
from lamp_lightning.sample.frames import either

SIZE_OF_CLIPS = (512, 704)  # of LTX-Video in diffusers; its configuration does not say it
_HUB = ("weight_name", *OPTIONS)


class MotionPipeline(PipelineComponents):
    """A base model's components with a video backbone, and the motions in it: what `LAMPPipeline` calls."""

    _own_scheduler: Any = None  # the base model's, where a motion has brought another
    inverted_clip: Tensor | None = None  # noise `1 c f h w` of the tuned clip, for start="inversion"
    motion_prompt: str | None = None  # that the loaded motion was tuned with
    _motion: Path | None = None  # the adapter that is loaded, where it is one alone

    @classmethod
    def from_motion(
        cls,
        file: str | Path,
        base: str | Path | None = None,
        *,
        config: str | Path | None = None,
        variant: str | None = None,
        lora: str | Path | None = None,
        lora_scale: float = 1.0,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        motions: Mapping[str | Path, float] | None = None,
        **kwargs: Any,
    ) -> Self:
        """The pipeline of a motion adapter of any kind (`Variant`), with its base model and UNet.

        Args:
            file: the adapter: a file, or a motion of the hub, see `load_motion`.
            base: the base model; None: the one that the adapter names, with its `config` and `variant`.
            config, variant, lora, lora_scale: as in `load_base_model`. With another LoRA than the one that it
                was tuned with, a motion needs `check_base=False`.
            dtype: of the frozen weights; None: float32, as tuned ones are.
            torch_dtype: diffusers' former name of `dtype`.
            motions: adapters to mix and their weights, see `set_motions`; None: `file` alone.
            kwargs: what else `load_motion` takes.

        Raises:
            UserError: no adapter, or none that says what its base model is.
        """
        file = _found(file, kwargs)
        header = header_of(file)
        if base is None:
            config, variant, base = header.base_config, header.base_variant, header.base_model
            if lora is None:
                lora, lora_scale = header.base_lora, header.base_lora_scale
        if base is None:
            raise UserError(f"{file} does not say which base model it belongs to: name it with base=<model>.")
        dtype = either("dtype", dtype, "torch_dtype", torch_dtype) or torch.float32
        model = load_base_model(
            base, config=config, variant=variant, lora=lora, lora_scale=lora_scale, torch_dtype=dtype
        )
        unet = inflated(model.unet, header.norm, header.variant, header.motion_modules)
        for parameter in unet.tuned_parameters():
            parameter.data = parameter.data.float()
        pipeline = cls.from_base(model, unet)
        if motions is None:
            pipeline.load_motion(file, **kwargs)
        else:
            pipeline.set_motions(motions, **kwargs)
        return pipeline

    def load_motion(self, file: str | Path, **kwargs: Any) -> dict[str, str]:
        """Load a motion adapter and return its metadata (see `VideoBackbone.load_motion`).

        Its sampler settings (scheduler, steps, guidance, frames, ...) become the defaults of calls, and the
        prompt that it was tuned with is taken where a call has none.

        Args:
            file: a file, or the name of a motion on the hub: `owner/name`, `owner/name@revision`. A path
                that is there always wins.
            kwargs: `check_base` of `VideoBackbone.load_motion`; of the hub, as for diffusers' loaders,
                `weight_name`, `revision`, `token`, `cache_dir`, `force_download`, `local_files_only`.

        Raises:
            UserError: as `VideoBackbone.load_motion`, or a motion that cannot be fetched.
        """
        file = _found(file, kwargs)
        metadata = self.unet.load_motion(file, **kwargs)
        self._sample_as(metadata, file)
        return metadata

    def set_motions(self, motions: Mapping[str | Path, float], **kwargs: Any) -> list[dict[str, str]]:
        """Load several motion adapters, each with a weight; returns their metadata.

        They are named, and fetched from the hub, as in `load_motion`: `{"ann/rain": 0.5, "fly.safetensors":
        1}`. See `VideoBackbone.set_motions`. The sampler settings are those of the one of the largest weight.
        """
        hub = {name: kwargs.pop(name) for name in _HUB if name in kwargs}
        files = [_found(file, dict(hub)) for file in motions]
        if len({file.resolve() for file in files}) < len(files):
            raise UserError(f"A motion is named twice: {', '.join(map(str, motions))}.")
        motions = dict(zip(files, motions.values(), strict=True))
        found = self.unet.set_motions(motions, **kwargs)
        weights = list(motions.values())
        heaviest = found[weights.index(max(weights))]
        self._sample_as(heaviest, next(iter(motions)) if len(motions) == 1 else None)
        return found

    def unload_motion(self) -> None:
        """Back to the base model, to the bit."""
        self.unet.unload_motion()
        self.inverted_clip = self._motion = self.motion_prompt = None
        self.register_to_config(sampler={})
        self.scheduler = self.own_scheduler

    def _sample_as(self, metadata: dict[str, str], file: str | Path | None) -> None:
        self.inverted_clip = None if file is None else inverted_clip(file)
        self._motion = None if file is None else Path(file)
        self.motion_prompt = metadata.get("prompt")
        settings = json.loads(metadata.get("sampler", "{}"))
        self.register_to_config(sampler=settings)
        self._own_scheduler = self.own_scheduler
        if "scheduler" in settings:
            self.scheduler = self.sampler.make_scheduler(self.own_scheduler.config)

    def push_motion_to_hub(
        self,
        repo_id: str,
        motion: str | Path | None = None,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
        **card: Any,
    ) -> Any:
        """Publish a motion on the hub, with a model card, in one commit.

        diffusers' `push_to_hub` publishes a pipeline with its base model; this the motion alone.

        Args:
            repo_id: `owner/name`; a repository that is not there is made.
            motion: a run folder, which has pictures and settings for the card, or an adapter file; None: the
                motion that is loaded.
            private: None: public, for most accounts.
            token: None: the one of `hf auth login`.
            commit_message: None: one that names the motion.
            create_pr: propose it to the owners of the repository.
            card: `videos`, `clips`, `base` and `license`, see `sample.publish.gather`.

        Returns:
            huggingface_hub's `CommitInfo`.

        Raises:
            UserError: no motion, or several; a base model that only this machine has; no token, network or
                rights.
        """
        from lamp_lightning.sample.publish import push  # with reports and pictures

        if motion is None and self._motion is None:
            raise UserError(
                "Which motion is to be published? One that was loaded by load_motion(), or give a run folder "
                "or an adapter file. Of a mixture, publish each motion by itself."
            )
        return push(
            Path(motion or self._motion or ""), repo_id, private=private, token=token, message=commit_message,
            create_pr=create_pr, **card,
        )  # fmt: skip

    @property
    def own_scheduler(self) -> Any:
        """The base model's scheduler, without what a motion asks for."""
        return self._own_scheduler or self.scheduler

    @property
    def sampler(self) -> Sampler:
        """What calls do by default: the settings of the loaded motion, else the authors'."""
        return Sampler().changed(self.config.sampler)

    @property
    def default_size(self) -> tuple[int, int]:
        """Height and width in pixels of the motion's clips, else those that the UNet was made for."""
        if self.sampler.size is not None:
            return self.sampler.size
        if self.base.takes_clips:
            return SIZE_OF_CLIPS
        own, factor = self.unet.config.sample_size, self.base.vae_scale_factor
        rows, columns = own if isinstance(own, (list, tuple)) else (own, own)
        return rows * factor, columns * factor


def _found(where: str | Path, options: dict[str, Any]) -> Path:
    """The file of a motion, with those of the options that are the hub's, which are taken out."""
    return motion_file(where, **{name: options.pop(name) for name in _HUB if name in options})
