"""What of the method a motion UNet has, and what of it is tuned: ablations and rivals as values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import Field

from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.schema import usable
from lamp_lightning.runtime.settings import Kind, LayerSettings

LAMP_SETS = ("conv1d", "conv_gate", "attn1.to_q", "attn_temp")  # what LAMP tunes (paper, section 3.3)
SETS: dict[Kind, tuple[str, ...]] = {  # what can be tuned, by the kind of motion layers
    "lamp": (*LAMP_SETS, "conv_first", "attn2.to_q"),
    "animatediff": ("motion_modules",),
    "image_to_video": ("lora",),
}
_SWITCHES = {  # the layer settings that a parameter set needs
    "conv1d": ("temporal_conv",),
    "conv_gate": ("temporal_conv", "gate"),
    "attn_temp": ("temporal_attention",),
    "conv_first": ("conv_first",),
}
USUAL = (*LAMP_SETS, "conv_first")  # what is tuned of LAMP's layers where nothing else is said

# A motion's parameters that the image model has; AnimateDiff's motion modules have attention of their own.
_QUERY = re.compile(r"^(?!.*motion_modules).*(^|\.)attn[12]?\.to_q\.(weight|bias)$")


class Variant(LayerSettings):
    """LAMP (Wu et al. 2024) by default; other values leave parts of it out or take a rival's in their place.

    `LayerSettings` has the parts: `kind`, `gate`, `temporal_conv`, `causal`, `self_attention`,
    `temporal_attention`, `conv_first` and `known`.

    Attributes:
        first_frame: frame 0 is clean and given in tuning and sampling; False: it is noised and denoised as
            the others are, and the loss is on all frames.
        tuned: names of `SETS`; the other parameters stay as in the untuned model. None: all of `LAMP_SETS`
            that these layers have, the motion modules, or the LoRA.

    Raises:
        ValidationError: an unknown name or value (`from_settings` says it in a UserError).
        UserError: values that contradict each other.

    Example:
        >>> Variant().sets
        ('conv1d', 'conv_gate', 'attn1.to_q', 'attn_temp')
        >>> Variant(gate=False).sets
        ('conv1d', 'attn1.to_q', 'attn_temp')
    """

    first_frame: bool = True
    tuned: Annotated[tuple[str, ...], Field(strict=False)] | None = None

    def model_post_init(self, context: Any) -> None:
        if self.tuned is not None:
            tuned = self._ordered(self.tuned)
            self.__dict__["tuned"] = None if tuned == self._usual() else tuned
        off = [name for name in ("gate", "causal") if not getattr(self, name)]
        if off and not self.temporal_conv:
            raise UserError(
                f"model.layers.{off[0]}=false is about the temporal convolution, which "
                "model.layers.temporal_conv=false leaves out: give "
                f"{' and '.join(f'model.layers.{name}=true' for name in off)} with it."
            )
        if self.known == "any" and not self.first_frame:
            raise UserError(
                "model.layers.known=any gives some frames of each clip: give tuner.first_frame=true."
            )
        default = type(self).model_fields
        switches = tuple(name for name in LayerSettings.model_fields if name != "kind")
        other = [name for name in switches if getattr(self, name) != default[name].default]
        if other and self.kind != "lamp":
            raise UserError(
                f"model.layers.{other[0]} is about LAMP's layers, which model.layers.kind={self.kind} does "
                f"not have: give model.layers.{other[0]}={str(default[other[0]].default).lower()}."
            )

    def _ordered(self, tuned: tuple[str, ...]) -> tuple[str, ...]:
        for name in tuned:
            if name not in SETS[self.kind]:
                raise UserError(
                    f"tuner.tuned has {name!r}, which cannot be tuned: give some of "
                    f"{', '.join(SETS[self.kind])}, or null for what the method tunes."
                )
            if switch := self._left_out_by(name):
                raise UserError(f"tuner.tuned has {name!r}, which model.layers.{switch}=false leaves out.")
        return tuple(name for name in SETS[self.kind] if name in tuned)

    def _left_out_by(self, name: str) -> str | None:
        """The layer setting whose false leaves out a parameter set; None where the set is there."""
        return next((switch for switch in _SWITCHES.get(name, ()) if not getattr(self, switch)), None)

    def _usual(self) -> tuple[str, ...]:
        """What the method tunes of these layers."""
        usual = USUAL if self.kind == "lamp" else SETS[self.kind]
        return tuple(name for name in usual if not self._left_out_by(name))

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the parameter sets that are tuned, in the order of `SETS`."""
        return self._usual() if self.tuned is None else self.tuned

    def settings(self) -> dict[str, Any]:
        """All values, as JSON knows them; `tuned` spelled out."""
        return self.model_dump() | {"tuned": list(self.sets)}

    @classmethod
    def from_settings(cls, values: Mapping[str, Any] | None) -> Variant:
        """What `settings` gave; values that are missing or None are LAMP's.

        Raises:
            UserError: values that this version does not know.
        """
        given = {key: value for key, value in (values or {}).items() if value is not None}
        unknown = sorted(set(given) - cls.model_fields.keys())
        if unknown:
            raise UserError(
                f"A motion model has no part {unknown[0]!r} to switch; it has {', '.join(cls.model_fields)}."
            )
        if "tuned" in given:
            given["tuned"] = tuple(given["tuned"])
        return usable(cls, "model.layers", given)

    def differences(self, other: Variant) -> str:
        """How they differ, in words; empty where they do not."""
        ours, theirs = self.settings(), other.settings()
        return ", ".join(f"{k} {ours[k]} and {theirs[k]}" for k in ours if ours[k] != theirs[k])


def query_names(names: Iterable[str]) -> list[str]:
    """Those of the names that are of queries, sorted.

    Example:
        >>> query_names(["conv_in.conv1d.weight", "blocks.0.attn1.to_q.weight"])
        ['blocks.0.attn1.to_q.weight']
    """
    return sorted(name for name in names if _QUERY.match(name))
