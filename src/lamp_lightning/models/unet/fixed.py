"""What diffusers can change in an image UNet and must not in a motion UNet.

Its switches for attention put their own processors in place of those that make frames look at the first
frame: the model would run on, as a worse one. They are refused, with what to do instead.
"""

from __future__ import annotations

from typing import Any, NoReturn

from diffusers.models.attention_processor import Attention, AttnProcessor2_0, IPAdapterAttnProcessor2_0
from torch import Tensor

from lamp_lightning.runtime.errors import UserError


class ImagePromptAttention(IPAdapterAttnProcessor2_0):
    """Attention to a clip's prompt and to the pictures of IP-Adapters (Ye et al. 2023), as diffusers' own.

    The frames of a clip form one long query, so that text and pictures are projected once for each clip.
    Not constructed: `FixedAttention.set_processor` turns diffusers' processor into one.

    Shapes: `(b f) n c`, text `b l d` and pictures `b k t d` for each adapter -> `(b f) n c`.
    """

    clip: Any
    text_only: Any  # the processor in whose place it stands

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        ip_adapter_masks: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        frames = self.clip.frames
        if ip_adapter_masks is not None:  # of the places of a frame
            text, pictures = encoder_hidden_states
            each = [x.repeat_interleave(frames, dim=0) for x in (text, *pictures)]
            kwargs["ip_adapter_masks"] = ip_adapter_masks
            return super().__call__(attn, hidden_states, (each[0], each[1:]), **kwargs)
        queries = hidden_states.unflatten(0, (-1, frames)).flatten(1, 2)
        return super().__call__(attn, queries, encoder_hidden_states, **kwargs).reshape(hidden_states.shape)


class FixedAttention(Attention):
    """An attention layer that keeps its processor; `fix` turns a layer of diffusers into one."""

    processor: Any

    @staticmethod
    def fix(attention: Attention, processor: Any) -> None:
        """Give a layer its last processor."""
        attention.set_processor(processor)
        attention.__class__ = FixedAttention

    def set_processor(self, processor: Any) -> None:
        """Take a processor of the same kind only, or an IP-Adapter's, or end that one.

        Raises:
            UserError: a processor of another kind; whatever of diffusers wanted to set it is refused.
        """
        own = self.processor
        if isinstance(processor, IPAdapterAttnProcessor2_0):
            processor.__class__ = ImagePromptAttention
            processor.text_only = getattr(own, "text_only", own)
        elif isinstance(own, ImagePromptAttention) and isinstance(processor, AttnProcessor2_0):
            processor = own.text_only  # what `unload_ip_adapter` means
        elif type(processor) is not type(own):
            _refuse_attention(f"processor {type(processor).__name__}")
        processor.clip = own.clip
        self._modules.pop("processor", None)
        self.processor = processor

    def set_use_memory_efficient_attention_xformers(self, valid: bool, *args: Any, **kwargs: Any) -> None:
        """Switching xFormers off changes nothing; on, it is refused."""
        if valid:
            _refuse_attention("xFormers")

    def fuse_projections(self, fuse: bool = True) -> None:
        """Refused: queries come from every frame, keys and values from the first."""
        _refuse_attention("fused projections")


class FixedUNet:
    """A `MotionUNet`'s attention: what can be set of it, and what is refused before a layer is touched."""

    get_submodule: Any  # the model's

    @property
    def attn_processors(self) -> dict[str, Any]:
        """The processors of the image model's attention layers, by name: not of those over time."""
        processors = super().attn_processors  # type: ignore[misc]
        return {name: each for name, each in processors.items() if ".attn_temp." not in name}

    def set_attn_processor(self, processor: Any) -> None:
        """Give all layers of `attn_processors` a processor, or each its own by name.

        Raises:
            ValueError: a dictionary that has not all of the names, as in diffusers.
        """
        if isinstance(processor, dict) and processor.keys() != self.attn_processors.keys():
            raise ValueError(f"The number of processors must be {len(self.attn_processors)}: one a name.")
        for name in self.attn_processors:
            layer = self.get_submodule(name.removesuffix(".processor"))
            layer.set_processor(processor[name] if isinstance(processor, dict) else processor)

    def set_default_attn_processor(self) -> None:
        """Nothing changes: the processors that a motion UNet has are its default."""

    def fuse_qkv_projections(self) -> None:
        _refuse_attention("fused projections")

    def set_attention_backend(self, backend: str) -> None:
        _refuse_attention(f"attention backend {backend!r}")

    def load_attn_procs(self, *args: Any, **kwargs: Any) -> None:
        _refuse_attention("loaded processors")


def _refuse_attention(what: str) -> NoReturn:
    raise UserError(
        f"A motion UNet cannot take {what}: its attention looks at the first frame of a clip, which no other "
        "processor does. It runs on torch's fused attention already; where that needs too much memory, call "
        "enable_attention_slicing()."
    )
