"""The LoRA of appearance: what single frames look like is learned, and left out (MotionDirector)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lamp_lightning.diffusion.loss import debiased
from lamp_lightning.models.base.load import load_base_model
from lamp_lightning.models.registry import inflated
from lamp_lightning.models.variant import Variant
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.train.__main__ import main
from lamp_lightning.train.tuner import MotionTuner
from processes import assert_same_end
from random_transformers import random_transformer

MODULES = {"kind": "animatediff", "first_frame": False}
LAYERS = {"tuned": ("conv1d", "attn_temp")}


def tuner_of(random_base: Path, **variant: Any) -> MotionTuner:
    torch.manual_seed(0)
    base = load_base_model(random_base)
    unet = inflated(base.unet, "per_frame", Variant(**variant))
    return MotionTuner(unet, base.scheduler, learning_rate=1e-2, appearance_rank=2, seed=3)


def batch(first: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(first)
    return {
        "latents": torch.randn(2, 4, 3, 8, 8, generator=generator),
        "text": torch.randn(2, 16, 16, generator=generator),
        "index": torch.arange(first, first + 2),
    }


def step(tuner: MotionTuner, optimizer: Any, first: int) -> None:
    tuner.training_step(batch(first), 0).backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("variant", [MODULES, LAYERS], ids=["modules", "layers"])
def test_the_lora_learns_from_one_frame_and_the_motion_from_all(random_base, variant):
    tuner = tuner_of(random_base, **variant)
    optimizer = tuner.configure_optimizers()
    for first in (0, 2, 4):  # what starts at zero has to open first
        step(tuner, optimizer, first)
    lora, motion = tuner.appearance.parameters().values(), tuner.unet.tuned_parameters()
    assert len(tuner.learned()) == len(lora) + len(motion)

    def gradients(changed: int | None) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        data = batch(6)
        if changed is not None:
            data["latents"][:, :, changed] += 1
        tuner.training_step(data, 0).backward()
        found = [p.grad.clone() for p in lora], [p.grad.clone() for p in motion]
        optimizer.zero_grad()
        return found

    before, same = gradients(None), []
    assert all(gradient.any() for gradient in before[0])
    for changed in range(3):
        after = gradients(changed)
        same.append(all(map(torch.equal, before[0], after[0])))
        assert not all(map(torch.equal, before[1], after[1]))
    assert sorted(same) == [False, True, True]


def test_the_model_without_its_loss_knows_nothing_of_the_lora(random_base):
    tuner = tuner_of(random_base, **MODULES)
    data = batch()

    def predicted() -> torch.Tensor:
        with torch.no_grad():
            return tuner.unet(data["latents"], 300, data["text"])

    before = predicted()
    with torch.no_grad():
        for parameter in tuner.appearance.parameters().values():
            parameter.add_(1)
    assert torch.equal(predicted(), before)
    with tuner.appearance._there(learns=False):
        assert not torch.equal(predicted(), before)


def test_debiasing_leaves_little_of_what_all_frames_have_in_common():
    found, look = torch.randn(1, 4, 5, 8, 8), torch.randn(1, 4, 1, 8, 8)
    change = debiased(found + look, anchor=2) - debiased(found, anchor=2)
    torch.testing.assert_close(change, (2**0.5 - 1) * look.expand_as(found), atol=1e-5, rtol=1e-4)


def test_a_run_of_motion_director_resumes_to_the_bit_and_its_file_has_no_lora(small, tmp_path):
    kept = [word for word in small if not word.startswith(("trainer.max_steps", "samples.final"))]
    words = ["method=motion_director", "motion=rain", "logger=none", "tuner.appearance_rank=2", *kept]
    words += ["tuner.schedule=constant", "tuner.warmup_steps=0", "tuner.learning_rate=1e-3"]
    assert main([*words, "samples.final=0", "hydra.run.dir=whole", "trainer.max_steps=3"]) == 0
    assert main([*words, "samples.final=0", "hydra.run.dir=parts", "trainer.max_steps=1"]) == 0
    assert main(["resume=parts", "trainer.max_steps=3", "samples.final=1"]) == 0
    assert_same_end(tmp_path / "whole", tmp_path / "parts")
    names = load_file(tmp_path / "parts" / "adapter.safetensors").keys()
    assert all("motion_modules" in name for name in names)


def test_models_that_cannot_have_it_say_so(random_base):
    with pytest.raises(UserError, match=r"beside attn1\.to_q, which is tuned itself"):
        tuner_of(random_base)
    sana = inflated(random_transformer("sana"), "per_frame")
    with pytest.raises(UserError, match=r"tuner\.appearance_rank is for UNets"):
        MotionTuner(sana, None, appearance_rank=2)


def test_what_would_compute_a_step_twice_is_refused(random_base):
    base = load_base_model(random_base)
    unet = inflated(base.unet, "per_frame", Variant(**MODULES))
    with pytest.raises(UserError, match="gradient_checkpointing"):
        MotionTuner(unet, base.scheduler, appearance_rank=2, gradient_checkpointing=True)
