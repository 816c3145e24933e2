"""Classifier-free guidance (Ho and Salimans 2022), and a model with its conditions as one function."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lamp_lightning.diffusion.conditions import Conditions
from lamp_lightning.diffusion.known import KnownFrames

Predict = Callable[[Tensor, Tensor, KnownFrames], Tensor | None]
"""`predict(sample, timestep, known)`: the prediction for the frames of `b c f h w` that are not clean.

None leaves the step out, which is how sampling is interrupted."""


def guided(prediction: Tensor, guidance_scale: float, guidance_rescale: float = 0.0) -> Tensor:
    """Classifier-free guidance: `2b ...`, unconditional then conditional, to `b ...`.

    Args:
        prediction: the UNet's output for both.
        guidance_scale: how far to go from the unconditional one past the conditional one.
        guidance_rescale: share in which the result takes the conditional one's standard deviation, which
            strong guidance overshoots (Lin et al. 2024, section 3.4: 0.7); 0 leaves it.

    Example:
        >>> import torch
        >>> guided(torch.tensor([[1.0], [2.0]]), guidance_scale=3.0).tolist()
        [[4.0]]
    """
    unconditional, conditional = prediction.chunk(2)
    result = unconditional + guidance_scale * (conditional - unconditional)
    if guidance_rescale == 0:
        return result
    wanted, found = (x.flatten(1).std(1).view(-1, *(1,) * (x.ndim - 1)) for x in (conditional, result))
    return guidance_rescale * result * (wanted / found) + (1 - guidance_rescale) * result


def with_guidance(
    model: Callable[..., Tensor], conditions: Conditions | Tensor, *, scale: float, rescale: float = 0.0
) -> Predict:
    """A model under its conditions and guidance, as a function of latents and timestep.

    Args:
        model: a MotionUNet, or what `MotionUNet.image_model()` gives.
        conditions: `2b` rows, unconditional then conditional; `b` will do when `scale` is 1. A tensor is the
            text alone.
        scale, rescale: see `guided`; a scale of 1, or diffusers' 0, means no guidance, and half the work.

    Example:
        >>> import torch
        >>> unet = lambda sample, timestep, text: sample * text.mean(dim=(1, 2)).reshape(-1, 1, 1, 1, 1)
        >>> text = torch.cat([torch.zeros(1, 77, 16), torch.ones(1, 77, 16)])
        >>> predict = with_guidance(unet, text, scale=3.0)
        >>> predict(torch.ones(1, 4, 2, 8, 8), torch.tensor(9), KnownFrames.none()).mean().item()
        3.0
    """
    told = Conditions.of(conditions)
    return with_changing_guidance(model, lambda clips: (told, scale, rescale))


def with_changing_guidance(
    model: Callable[..., Tensor], now: Callable[[int], tuple[Conditions, float, float] | None]
) -> Predict:
    """`with_guidance` where conditions and guidance may change from step to step.

    Args:
        model: as in `with_guidance`.
        now: conditions, scale and rescale for so many clips, asked for before each prediction; None leaves
            the step out.

    Example:
        >>> import torch
        >>> unet = lambda sample, timestep, text: sample * text.mean(dim=(1, 2)).reshape(-1, 1, 1, 1, 1)
        >>> told = Conditions.of(torch.cat([torch.zeros(1, 77, 16), torch.ones(1, 77, 16)]))
        >>> scales = iter([3.0, 1.0])
        >>> predict = with_changing_guidance(unet, lambda clips: (told, next(scales), 0.0))
        >>> arguments = torch.ones(1, 4, 2, 8, 8), torch.tensor(9), KnownFrames.none()
        >>> [predict(*arguments).mean().item() for _ in range(2)]
        [3.0, 1.0]
    """

    def predict(sample: Tensor, timestep: Tensor, known: KnownFrames) -> Tensor | None:
        if (found := now(len(sample))) is None:
            return None
        conditions, scale, rescale = found
        guidance = scale not in (0, 1)
        rows = _needed(conditions, clips=len(sample), guidance=guidance)
        if not guidance:
            return known.others(model(sample, timestep, rows.text, **rows.extra, **known.said))
        doubled = sample.repeat(2, 1, 1, 1, 1)
        both = known.others(model(doubled, timestep, rows.text, **rows.extra, **known.said))
        return guided(both, scale, rescale)

    return predict


def _needed(conditions: Conditions, *, clips: int, guidance: bool) -> Conditions:
    """All `2b` rows with guidance, else the conditional ones. Raises ValueError for any other number."""
    rows = len(conditions)
    if rows != 2 * clips and (guidance or rows != clips):
        need = f"{2 * clips} (unconditional, then conditional)" if guidance else f"{clips} or {2 * clips}"
        raise ValueError(f"text_embeddings has {rows} rows; {clips} clips need {need}.")
    return conditions if guidance or rows == clips else conditions[clips:]
