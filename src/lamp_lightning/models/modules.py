"""What AnimateDiff's motion modules look like, as far as an image model does not say it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lamp_lightning.runtime.reading import Schema


class MotionModules(Schema):
    """The structure of motion modules, by the words of diffusers' `MotionAdapter`; all else is the UNet's.

    use_motion_mid_block: whether the middle of the UNet has one, as in version 2.
    motion_max_seq_length: frames that they count to.
    motion_num_attention_heads: of each.
    """

    use_motion_mid_block: bool = False
    motion_max_seq_length: Annotated[int, Field(ge=2, le=1024)] = 32
    motion_num_attention_heads: Annotated[int, Field(ge=1, le=1024)] = 8
