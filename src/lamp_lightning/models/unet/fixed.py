"""What diffusers can change in an image UNet and must not in a motion UNet.

Its switches for attention put their own processors in place of those that make frames look at the first
frame: the model would run on, as a worse one. They are refused, with what to do instead.
"""

from __future__ import annotations

from typing import Any, NoReturn

from diffusers.models.attention_processor import Attention

from lamp_lightning.runtime.errors import UserError


class FixedAttention(Attention):
    """An attention layer that keeps its processor; `fix` turns a layer of diffusers into one."""

    processor: Any

    @staticmethod
    def fix(attention: Attention, processor: Any) -> None:
        """Give a layer its last processor."""
        attention.set_processor(processor)
        attention.__class__ = FixedAttention

    def set_processor(self, processor: Any) -> None:
        """Take a processor of the same kind; UserError for another."""
        if type(processor) is not type(self.processor):
            _refuse_attention(f"processor {type(processor).__name__}")
        self.processor = processor

    def set_use_memory_efficient_attention_xformers(self, valid: bool, *args: Any, **kwargs: Any) -> None:
        """Switching xFormers off changes nothing; on, it is refused."""
        if valid:
            _refuse_attention("xFormers")

    def fuse_projections(self, fuse: bool = True) -> None:
        """Refused: queries come from every frame, keys and values from the first."""
        _refuse_attention("fused projections")


class FixedUNet:
    """The refusals of a `MotionUNet`, before its layers are touched.

    Every method that would change the attention raises a `UserError`.
    """

    def set_default_attn_processor(self) -> None:
        """Nothing changes: the processors that a motion UNet has are its default."""

    def fuse_qkv_projections(self) -> None:
        _refuse_attention("fused projections")

    def set_attention_backend(self, backend: str) -> None:
        _refuse_attention(f"attention backend {backend!r}")

    def load_attn_procs(self, *args: Any, **kwargs: Any) -> None:
        _refuse_attention("loaded processors")

    def add_adapter(self, *args: Any, **kwargs: Any) -> None:
        refuse_lora()

    def load_lora_adapter(self, *args: Any, **kwargs: Any) -> None:
        refuse_lora()


def refuse_lora() -> NoReturn:
    """LoRA layers stand in the place of the query projections that a motion is tuned in."""
    raise UserError(
        "A motion UNet takes no LoRA layers: they would stand in the place of layers that are tuned. Merge "
        "them into the image model first: load_lora_weights, fuse_lora and unload_lora_weights of its "
        "diffusers pipeline, then inflate its UNet (or save_pretrained it and give that folder)."
    )


def _refuse_attention(what: str) -> NoReturn:
    raise UserError(
        f"A motion UNet cannot take {what}: its attention looks at the first frame of a clip, which no other "
        "processor does. It runs on torch's fused attention already; where that needs too much memory, call "
        "enable_attention_slicing()."
    )
