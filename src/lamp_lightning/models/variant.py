"""What of the method a motion UNet has, and what of it is tuned: ablations and rivals as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import ConfigDict, Field

from lamp_lightning.runtime.errors import UserError

Kind = Literal["lamp", "animatediff"]
SelfAttention = Literal["first_frame", "own", "first_and_former"]
LAMP_SETS = ("conv1d", "conv_gate", "attn1.to_q", "attn_temp")  # what LAMP tunes (paper, section 3.3)
SETS: dict[Kind, tuple[str, ...]] = {  # what can be tuned, by the kind of motion layers
    "lamp": (*LAMP_SETS, "attn2.to_q"),
    "animatediff": ("motion_modules",),
}
_CONVOLUTION, _ATTENTION = ("conv1d", "conv_gate"), ("attn_temp",)


@dataclass(frozen=True)
class Variant:
    """LAMP (Wu et al. 2024) by default; other values leave parts of it out or take a rival's in their place.

    Attributes:
        kind: "lamp": the motion layers below; "animatediff": the motion modules of AnimateDiff (Guo et al.
            2024), for which the switches from `gate` to `temporal_attention` mean nothing.
        first_frame: frame 0 is clean and given in tuning and sampling; False: it is noised and denoised as
            the others are, and the loss is on all frames.
        gate: motion layers weigh their temporal convolution by a gate; False adds it as it is.
        temporal_conv: motion layers have a temporal convolution; False leaves the image model's 2D
            convolution.
        causal: it looks at the past only; False: one frame into the past and one into the future.
        self_attention: what frames look at. "first_frame"; "own": themselves, as in the image model;
            "first_and_former": frame 0 and the frame before, as in Tune-A-Video (Wu et al. 2023, section
            3.2).
        temporal_attention: a self-attention over time follows each transformer block's feed-forward.
        tuned: names of `SETS`; the other parameters stay as in the untuned model. None: all of `LAMP_SETS`
            that these layers have, or the motion modules.

    Raises:
        UserError: unknown values, or values that contradict each other.
    """

    # How values in an adapter's header are checked (`weights.header`).
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    kind: Kind = "lamp"
    first_frame: bool = True
    gate: bool = True
    temporal_conv: bool = True
    causal: bool = True
    self_attention: SelfAttention = "first_frame"
    temporal_attention: bool = True
    tuned: Annotated[tuple[str, ...], Field(strict=False)] | None = None

    def __post_init__(self) -> None:
        for name, known in (("kind", get_args(Kind)), ("self_attention", get_args(SelfAttention))):
            if (value := getattr(self, name)) not in known:
                raise UserError(f"model.layers.{name} must be one of {', '.join(known)}, but is {value!r}.")
        if self.tuned is not None:
            tuned = self._ordered(self.tuned)
            object.__setattr__(self, "tuned", None if tuned == self._usual() else tuned)
        off = [name for name in ("gate", "causal") if not getattr(self, name)]
        if off and not self.temporal_conv:
            raise UserError(
                f"model.layers.{off[0]}=false is about the temporal convolution, which "
                "model.layers.temporal_conv=false leaves out: give "
                f"{' and '.join(f'model.layers.{name}=true' for name in off)} with it."
            )
        default = Variant.__dataclass_fields__
        switches = ("gate", "temporal_conv", "causal", "self_attention", "temporal_attention")
        other = [name for name in switches if getattr(self, name) != default[name].default]
        if other and self.kind != "lamp":
            raise UserError(
                f"model.layers.{other[0]} is about LAMP's layers, which model.layers.kind={self.kind} does "
                f"not have: give model.layers.{other[0]}={str(default[other[0]].default).lower()}."
            )

    def _ordered(self, tuned: Any) -> tuple[str, ...]:
        if isinstance(tuned, str):
            tuned = [tuned]
        for name in tuned:
            if name not in SETS[self.kind]:
                raise UserError(
                    f"tuner.tuned has {name!r}, which cannot be tuned: give some of "
                    f"{', '.join(SETS[self.kind])}, or null for what the method tunes."
                )
            if name not in self._there():
                switch = "temporal_attention" if name in _ATTENTION else "gate"
                switch = switch if self.temporal_conv or name in _ATTENTION else "temporal_conv"
                raise UserError(f"tuner.tuned has {name!r}, which model.layers.{switch}=false leaves out.")
        return tuple(name for name in SETS[self.kind] if name in tuned)

    def _there(self) -> tuple[str, ...]:
        """The parameter sets that these layers have."""
        missing: set[str] = set() if self.temporal_conv else set(_CONVOLUTION)
        missing |= set() if self.gate else {"conv_gate"}
        missing |= set() if self.temporal_attention else set(_ATTENTION)
        return tuple(name for name in SETS[self.kind] if name not in missing)

    def _usual(self) -> tuple[str, ...]:
        """What the method tunes of them."""
        usual = LAMP_SETS if self.kind == "lamp" else SETS[self.kind]
        return tuple(name for name in self._there() if name in usual)

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the parameter sets that are tuned, in the order of `SETS`."""
        return self._usual() if self.tuned is None else self.tuned

    def settings(self) -> dict[str, Any]:
        """All values, as JSON knows them; `tuned` spelled out."""
        return asdict(self) | {"tuned": list(self.sets)}

    @classmethod
    def from_settings(cls, values: Mapping[str, Any] | None) -> Variant:
        """What `settings` gave; values that are missing or None are LAMP's.

        Raises:
            UserError: values that this version does not know.
        """
        given = {key: value for key, value in (values or {}).items() if value is not None}
        unknown = sorted(set(given) - {field.name for field in fields(cls)})
        if unknown:
            raise UserError(
                f"A motion model has no part {unknown[0]!r} to switch; it has "
                f"{', '.join(field.name for field in fields(cls))}."
            )
        if "tuned" in given:
            given["tuned"] = tuple(given["tuned"])
        return cls(**given)

    def differences(self, other: Variant) -> str:
        """How they differ, in words; empty where they do not."""
        ours, theirs = self.settings(), other.settings()
        return ", ".join(f"{k} {ours[k]} and {theirs[k]}" for k in ours if ours[k] != theirs[k])
