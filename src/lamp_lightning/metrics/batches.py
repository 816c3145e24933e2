"""What the metric classes have in common: batches, devices, plots, and arithmetic with several values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import torch
from torchmetrics import Metric

from lamp_lightning.runtime.errors import UserError

_NUMBERS = count()


class Values(dict[str, Any]):
    """Values by name with which metrics calculate as with one: `error / 2` halves each.

    Example:
        >>> torch.add(Values(a=torch.tensor(1.0), b=torch.tensor(2.0)), 1)
        {'a': tensor(2.), 'b': tensor(3.)}
    """

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any, kwargs: Any = None) -> Values:
        """Call a function of torch with each value; of several dictionaries with those of one name."""
        named = [each for each in args if isinstance(each, Values)]
        if any(each.keys() != named[0].keys() for each in named):
            names = " and ".join(str(list(each)) for each in named)
            raise UserError(
                f"These metrics have values of different names, {names}: take one of each, such as "
                f"metric[{next(iter(named[0]))!r}]."
            )

        def one(name: str) -> Any:
            own = [each[name] if isinstance(each, Values) else each for each in args]
            return function(*own, **(kwargs or {}))

        return cls({name: one(name) for name in named[0]})

    def __neg__(self) -> Values:
        return Values({name: -value for name, value in self.items()})


class VideoMetric(Metric):
    """A torchmetrics metric of videos.

    `update` takes one video or a batch (`as_videos`): uint8 or floats in 0..1, arrays or tensors,
    `f h w c`, `f c h w`, `b f h w c` or `b f c h w`, such as the pipeline's `frames`, or a list of videos.
    `to(device)` takes the CLIP model along, and `plot()` draws by torchmetrics' own utilities.
    """

    clip: Any = None  # the ClipJudge of those that have one
    full_state_update = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # A MetricCollection updates only one of those whose states are equal at first: no two of ours are.
        self.add_state("number", torch.tensor(next(_NUMBERS)), dist_reduce_fx="max")

    def _apply(self, fn: Callable[..., Any], exclude_state: Sequence[str] = "") -> Any:
        if self.clip is not None:
            self.clip.model.to(fn(torch.zeros(1, device=self.clip.model.device)).device)
        return super()._apply(fn, exclude_state)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draw what `compute` gives, or `val`, such as a list of values; returns figure and axes."""
        return self._plot(val, ax)


def one_each(given: Any, videos: Sequence[Any], what: str) -> list[Any]:
    """What belongs to each video, such as its prompt or first frame; a single one belongs to all of them.

    Raises ValueError where there are more or fewer than videos.

    Example:
        >>> one_each("rain", ["one video", "another"], "prompts")
        ['rain', 'rain']
    """
    if isinstance(given, str) or (not isinstance(given, list | tuple) and getattr(given, "ndim", 3) == 3):
        return [given] * len(videos)
    if len(given) != len(videos):
        raise ValueError(f"{len(videos)} videos do not go with {len(given)} {what}: give one for each.")
    return list(given)
