"""What may stand in the record of a video, as one schema; `record` writes and reads records."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from lamp_lightning.diffusion.sampler import Memory, Sampler
from lamp_lightning.runtime.names import Name, Sha256, Text, Weight
from lamp_lightning.runtime.reading import Schema
from lamp_lightning.runtime.settings import (
    MOST_FRAMES,
    Dtype,
    Fit,
    Format,
    LoraScale,
    Precision,
    Seed,
    Threads,
)

Place = Annotated[int, Field(ge=0, lt=MOST_FRAMES)]
LARGEST_BATCH = 1024  # of a record: the videos that are generated to have one of them again, bit for bit


class GivenFrame(Schema):
    """The picture that was the first frame; `frame` says which of a clip."""

    file: Name
    sha256: Sha256
    fit: Fit
    frame: Place | None = None


class KnownFrame(Schema):
    """A further frame that was given, and its place in the video."""

    place: Place
    file: Name
    sha256: Sha256
    frame: Place | None = None


class Motion(Schema):
    """A motion that the video was generated with."""

    file: Name
    sha256: Sha256
    motion: Name
    weight: Weight


class Base(Schema):
    """The base model; `identity` are the hashes of its parts."""

    model: Name
    config: Name | None
    variant: Name | None
    dtype: Dtype
    lora: Name | None = None
    lora_scale: LoraScale | None = None
    identity: dict[Name, Sha256] = Field(default_factory=dict)


class Words(Schema):
    """The models that the overrides named; nothing in a record says where to write."""

    run: Annotated[list[Name], Field(min_length=1, max_length=100)]
    base: Name | None = None
    base_config: Name | None = None
    lora: Name | None = None
    lora_scale: LoraScale | None = None
    check_base: bool = True
    painter: Name | None = None
    painter_config: Name | None = None


class HowMade(Schema):
    """What decides the last bits: the machine, and the video's place in which batch."""

    device: Annotated[str, Field(pattern="^[a-z]{1,20}(:[0-9]{1,3})?$")]
    threads: Threads
    memory: Memory
    versions: dict[Name, Name]
    batch: Annotated[int, Field(ge=1, le=LARGEST_BATCH)]
    place: Annotated[int, Field(ge=0)]

    @field_validator("place")
    @classmethod
    def _in_the_batch(cls, place: int, info: ValidationInfo) -> int:
        if place >= info.data.get("batch", LARGEST_BATCH):
            raise ValueError("a batch has places from 0 to its size less one")
        return place


class VideoRecord(Schema):
    """A record. What is known only in the end may be missing where the video is not `finished`."""

    format: Literal["lamp-lightning video 2"]
    finished: bool
    prompt: Text
    negative_prompt: Text | None
    seed: Seed
    first_frame: GivenFrame | None
    known: Annotated[list[KnownFrame], Field(max_length=MOST_FRAMES)] = Field(default_factory=list)
    loop: bool = False
    sampler: Sampler
    precision: Precision
    motions: Annotated[list[Motion], Field(min_length=1, max_length=100)]
    base: Base
    painter: Name | None
    words: Words
    frames_sha256: Sha256 | None = None
    formats: Annotated[list[Format], Field(min_length=1, max_length=4)] | None = None
    measured: dict[Name, Annotated[float, Field(allow_inf_nan=True)]] = Field(default_factory=dict)
    made: HowMade | None = None

    @model_validator(mode="after")
    def _whole(self) -> VideoRecord:
        missing = [name for name in ("frames_sha256", "formats", "made") if getattr(self, name) is None]
        if self.finished and missing:
            raise ValueError(f"it is of a finished video and lacks {missing[0]!r}")
        return self
