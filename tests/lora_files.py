"""What diffusers loads into a UNet, tiny and random: LoRA layers, an IP-Adapter, a ControlNet."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ControlNetModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor

from method_models import image_unet
from random_transformers import random_transformer

STYLED = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv_in")
PICTURE = 24  # numbers of a picture's embedding


def lora(seed: int = 3, targets: tuple[str, ...] = STYLED) -> dict[str, Tensor]:
    """A LoRA of an image model as `pytorch_lora_weights.safetensors` holds it."""
    unet = image_unet()
    torch.manual_seed(seed)
    unet.add_adapter(LoraConfig(r=2, target_modules=list(targets), init_lora_weights="gaussian"))
    for name, parameter in unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return {f"unet.{name}": tensor for name, tensor in get_peft_model_state_dict(unet).items()}


def lora_of_transformer(kind: str, seed: int = 3) -> dict[str, Tensor]:
    """A LoRA of a random transformer, as its file holds it."""
    model: Any = random_transformer(kind)
    torch.manual_seed(seed)
    model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v"], init_lora_weights="gaussian"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return {f"transformer.{name}": tensor for name, tensor in get_peft_model_state_dict(model).items()}


def ip_adapter(unet: Any, seed: int = 5) -> dict[str, dict[str, Tensor]]:
    """The weights of an IP-Adapter for this UNet, as its files hold them."""
    generator = torch.Generator().manual_seed(seed)
    width = unet.config.cross_attention_dim

    def weights(*shape: int) -> Tensor:
        return 0.5 * torch.randn(*shape, generator=generator)

    layers = [name.removesuffix(".processor") for name in unet.attn_processors if "attn2" in name]
    widths = [unet.get_submodule(name).to_q.weight.shape[0] for name in layers]
    return {
        "image_proj": {
            "proj.weight": weights(4 * width, PICTURE),
            "proj.bias": weights(4 * width),
            "norm.weight": torch.ones(width),
            "norm.bias": torch.zeros(width),
        },
        "ip_adapter": {
            f"{2 * k + 1}.to_{part}_ip.weight": weights(hidden, width)
            for k, hidden in enumerate(widths)
            for part in "kv"
        },
    }


def controlnet(unet: Any) -> ControlNetModel:
    """A ControlNet of this UNet, whose residuals are not zero."""
    net = ControlNetModel.from_unet(unet, conditioning_channels=3, load_weights_from_unet=False)
    torch.manual_seed(7)
    for layer in (*net.controlnet_down_blocks, net.controlnet_mid_block):
        torch.nn.init.normal_(layer.weight, std=0.2)
    return net.eval()
