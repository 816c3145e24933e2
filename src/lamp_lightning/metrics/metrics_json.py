"""What was measured, as it stands in files: metrics.json of runs and evaluations, results of benchmarks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lamp_lightning.metrics.registry import MEASURES
from lamp_lightning.runtime.files import write_json
from lamp_lightning.runtime.reading import checked, read_json

LARGEST = 1e12  # no measure comes near
_ADVICE = "It is damaged or another program's: measure anew, or take it away."


def _number(value: Any, what: str = "") -> float | None:
    """A number, or None for what could not be measured (null, NaN)."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{what}should be a number")
    if abs(value) > LARGEST:
        raise ValueError(f"{what}should be at most {LARGEST:g}")
    return None if math.isnan(value) else float(value)


def _file_name(value: str) -> str:
    """The name of a file in one folder: it leads nowhere else."""
    if value in ("", ".", "..") or any(sign in value for sign in "/\\\0"):
        raise ValueError("it should be the name of a file, without folders")
    return value


Number = Annotated[float | None, BeforeValidator(lambda value: _number(value))]


class _Measured(BaseModel):
    """Measures by name beside other facts: newer versions may write more."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _measures_are_numbers(cls, found: Any) -> Any:
        if isinstance(found, dict):
            for name in sorted(found.keys() & MEASURES.keys()):
                _number(found[name], f"{name} ")
        return found

    @property
    def numbers(self) -> dict[str, float]:
        """All that are numbers, facts such as the loss, too; what was not measured is left out."""
        return _numbers({**self.model_extra} if self.model_extra else {})


class VideoMetrics(_Measured):
    """What was measured of one video."""

    file: Annotated[str, Field(max_length=1000), AfterValidator(_file_name)]
    prompt: str | None = None
    seed: int | None = None


class RunMetrics(_Measured):
    """A metrics.json: what a run or an evaluation measured."""

    minutes: Number = None
    seconds_per_video: Number = None
    videos: list[VideoMetrics] = Field(default=[], max_length=100_000)

    @property
    def measured(self) -> dict[str, float]:
        """The measures alone."""
        return {name: value for name, value in self.numbers.items() if name in MEASURES}


class Judged(BaseModel):
    """The result of a benchmark's run: what was asked, and the measures of all and of single videos."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)
    asked: dict[str, Any] = {}
    metrics: dict[str, Number]
    videos: list[dict[str, Number]] = Field(default=[], max_length=100_000)
    minutes: Number = None
    seconds_per_video: Number = None

    @property
    def numbers(self) -> dict[str, float]:
        """The measures of all videos together that have a value."""
        return _numbers(self.metrics)

    @property
    def video_numbers(self) -> list[dict[str, float]]:
        """The same of each video."""
        return [_numbers(each) for each in self.videos]


def write_metrics(file: Path, values: Mapping[str, Any]) -> None:
    """Write the metrics.json of a run, an evaluation or an edit; a whole file or none."""
    write_json(file, values)


def read_metrics(file: Path) -> RunMetrics:
    """A metrics.json. Raises UserError where it cannot be read or holds values of wrong types."""
    what = "the metrics of a run"
    return checked(RunMetrics, read_json(file, what=what), file=file, what=what, advice=_ADVICE)


def read_judged(file: Path) -> Judged:
    """A result of a benchmark. Raises UserError as `read_metrics` does."""
    what = "the result of a benchmark"
    return checked(Judged, read_json(file, what=what), file=file, what=what, advice=_ADVICE)


def _numbers(found: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
    }
