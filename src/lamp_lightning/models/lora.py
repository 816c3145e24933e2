"""LoRA layers and IP-Adapters beside a motion: a style is added to weights, a motion takes their place.

peft puts a LoRA layer around a layer, whose own weight W is then called `base_layer.weight`; the layer's
output is that of `W + s B A` (Hu et al. 2022, section 4.1). Motions know W alone, by its name without LoRA.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from lamp_lightning.models.unet.layers import MotionConv
from lamp_lightning.runtime.errors import UserError

P = ParamSpec("P")
T = TypeVar("T")
# Pipelines ask for the arguments of a model's `save_pretrained`, and give only those.
as_saved_by_diffusers: Any = wraps(ModelMixin.save_pretrained, assigned=())
_OF_OTHERS = re.compile(r"\.(lora|lokr)_|\.processor\.|(^|\.)image_projection_layers\.")
_TEMPORAL = r".*\.attn_temp\..*|.*motion_modules.*"  # layers of motion, which a style leaves alone


class LoraLayers:
    """What diffusers calls of a UNet for LoRA and IP-Adapters, made safe for the motion in it.

    A LoRA stays what it is under any motion, whichever is loaded first, and a motion stays what it is.
    """

    named_modules: Any  # these are the model's
    peft_config: Any
    config: Any
    require_gradients: Any
    tuned_parameters: Any

    def load_lora_adapter(
        self, pretrained_model_name_or_path_or_dict: Any, prefix: str | None = "transformer", **kwargs: Any
    ) -> None:
        """Load LoRA layers, as diffusers' `load_lora_adapter`; a pipeline's `load_lora_weights` comes here.

        Args:
            pretrained_model_name_or_path_or_dict: a file, a folder, a hub id, or the tensors by name. Names
                are those of the image model.
            prefix: of the names that are meant, "unet" in files of pipelines.
            kwargs: what diffusers takes (`adapter_name`, `weight_name`, `network_alphas`, ...).
        """
        weights: Any = pretrained_model_name_or_path_or_dict
        if not isinstance(weights, Mapping):
            from diffusers.loaders import StableDiffusionLoraLoaderMixin

            found = {key: kwargs.pop(key) for key in _FETCHING if key in kwargs}
            weights, alphas, metadata = StableDiffusionLoraLoaderMixin.lora_state_dict(
                weights, return_lora_metadata=True, **found
            )
            kwargs = {"network_alphas": alphas, "metadata": metadata, **kwargs}
        convs = [name for name, module in self.named_modules() if isinstance(module, MotionConv)]
        weights = _renamed(weights, convs, prefix)
        if kwargs.get("network_alphas"):
            kwargs["network_alphas"] = _renamed(kwargs["network_alphas"], convs, prefix)
        if kwargs.get("metadata"):
            start = "" if prefix is None else f"{prefix}."
            kwargs["metadata"] = {
                key: _renamed(value, convs, None) if isinstance(value, dict) else value
                for key, value in kwargs["metadata"].items()
            } | {f"{start}exclude_modules": _TEMPORAL}
        super().load_lora_adapter(weights, prefix=prefix, **kwargs)  # type: ignore[misc]
        self.require_gradients()  # of what is tuned: peft leaves them to LoRA layers alone

    def add_adapter(self, adapter_config: Any, adapter_name: str = "default") -> None:
        """Add new LoRA layers for training, as diffusers' `add_adapter`: to the image model's layers alone,
        unless the configuration says what it excludes."""
        if getattr(adapter_config, "exclude_modules", "") is None:
            adapter_config.exclude_modules = _TEMPORAL
        super().add_adapter(adapter_config, adapter_name)  # type: ignore[misc]

    def unload_lora(self) -> None:
        """Take all LoRA layers out.

        Raises:
            UserError: they are fused, and would be left in weights that the next motion takes the place of.
        """
        refuse_fused(self, "unload_lora_weights()")
        super().unload_lora()  # type: ignore[misc]
        self.require_gradients()

    def delete_adapters(self, adapter_names: list[str] | str) -> None:
        """Take LoRA layers out by name. Raises UserError where any are fused, as `unload_lora`."""
        refuse_fused(self, "delete_adapters()")
        super().delete_adapters(adapter_names)  # type: ignore[misc]

    def _load_ip_adapter_weights(self, state_dicts: Any, **kwargs: Any) -> None:
        tuned = [(parameter, parameter.data) for parameter in self.tuned_parameters()]
        super()._load_ip_adapter_weights(state_dicts, **kwargs)  # type: ignore[misc]
        for parameter, data in tuned:  # diffusers casts all weights to one precision
            parameter.data = data.to(parameter.device)
        self.require_gradients()

    def register_to_config(self, **settings: Any) -> None:
        """Keep what diffusers notes of an IP-Adapter outside of the configuration, which is made anew."""
        before = getattr(self, "_internal_dict", None)
        super().register_to_config(**settings)  # type: ignore[misc]
        if before is not None:
            self.config.encoder_hid_dim_type = getattr(before, "encoder_hid_dim_type", None)

    @as_saved_by_diffusers
    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Save as diffusers does.

        Raises:
            UserError: there are LoRA layers or an IP-Adapter, which a model's folder does not hold.
        """
        refuse_loaded(self, "saved")
        super().save_pretrained(*args, **kwargs)  # type: ignore[misc]


_FETCHING = (
    "cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "subfolder",
    "weight_name", "use_safetensors",
)  # fmt: skip


def own_name(name: str) -> str | None:
    """A parameter's name in a model without LoRA; None where it belongs to a LoRA or an IP-Adapter.

    Example:
        >>> own_name("attn1.to_q.base_layer.weight"), own_name("attn1.to_q.lora_A.style.weight")
        ('attn1.to_q.weight', None)
    """
    return None if _OF_OTHERS.search(name) else name.replace(".base_layer.", ".")


@contextmanager
def unfused(model: Any) -> Iterator[None]:
    """In this context LoRA layers that are fused into a model's weights are apart from them."""
    fused = [(layer, list(layer.merged_adapters)) for layer in _fused(model)]
    for layer, _ in fused:
        layer.unmerge()
    try:
        yield
    finally:
        for layer, names in fused:
            layer.merge(adapter_names=names)


def without_lora(method: Callable[P, T]) -> Callable[P, T]:
    """A method of a model that sees its weights without the LoRA layers that are fused into them."""

    @wraps(method)
    def inner(*args: P.args, **kwargs: P.kwargs) -> T:
        with unfused(args[0]):
            return method(*args, **kwargs)

    return inner


def refuse_fused(model: Any, what: str) -> None:
    """Raises UserError where LoRA layers are fused."""
    if _fused(model):
        raise UserError(
            f"LoRA layers are fused into the UNet's weights, some of which the next motion would take the "
            f"place of: call unfuse_lora() before {what}, or leave them loaded, which costs no time."
        )


def refuse_loaded(model: Any, what: str) -> None:
    """Raises UserError where there are LoRA layers or an IP-Adapter."""
    loaded = {
        "LoRA layers": bool(getattr(model, "peft_config", None)),
        "an IP-Adapter": model.config.encoder_hid_dim_type == "ip_image_proj",
    }
    for found, there in loaded.items():
        if there:
            raise UserError(
                f"The UNet has {found} and cannot be {what} with them: call unload_lora_weights() and "
                "unload_ip_adapter() first, and load them into the LAMPPipeline afterwards. What fuse_lora() "
                "has fused stays in the weights; motions are then loaded with check_base=False."
            )


def _fused(model: nn.Module) -> list[Any]:
    """The layers that are fused with a LoRA."""
    return [layer for layer in model.modules() if getattr(layer, "merged_adapters", None)]


def _renamed(tensors: Mapping[str, Any], convs: list[str], prefix: str | None) -> dict[str, Any]:
    """LoRA's tensors by the names of a motion UNet, where a convolution lies within its motion layer."""
    start = "" if prefix is None else f"{prefix}."
    places = re.compile(
        rf"^({re.escape(start)}({'|'.join(map(re.escape, convs)) or '$^'}))(?=\.(?!conv2d\.)|$)"
    )
    return {places.sub(r"\1.conv2d", name): tensor for name, tensor in tensors.items()}
