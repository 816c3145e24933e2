"""Base models in diffusers' folders: whose noise schedule counts, and which files are read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler

from lamp_lightning import UserError
from lamp_lightning.models import load_base_model
from random_models import save_random_model


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, "FlowMatchEulerDiscreteScheduler"),
        ({"_class_name": "EDMEulerScheduler", "sigma_max": 80.0}, "EDMEulerScheduler"),
    ],
)
def test_other_noise_levels_are_refused(tmp_path, config, message):
    folder = save_random_model(tmp_path / "model")
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        load_base_model(folder)


def test_the_noise_schedule_is_the_models_own_whatever_its_sampler(tmp_path):
    folder = save_random_model(tmp_path / "model", "sd2")
    file = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())
    config |= {"_class_name": "EulerDiscreteScheduler", "beta_end": 0.02}
    config.pop("clip_sample", None)  # as samplers save it that never clip
    file.write_text(json.dumps(config))
    scheduler = load_base_model(folder).scheduler
    assert isinstance(scheduler, DDIMScheduler)
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.betas[-1] == pytest.approx(0.02)
    assert scheduler.config.clip_sample is False


def test_a_folder_with_half_precision_files_alone_is_read(tmp_path):
    folder = save_random_model(tmp_path / "model")
    wanted = load_base_model(folder).unet.state_dict()
    halves = Path(shutil.copytree(folder, tmp_path / "halves"))
    for part, name in (("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"),
                       ("text_encoder", "model")):  # fmt: skip
        (halves / part / f"{name}.safetensors").rename(halves / part / f"{name}.fp16.safetensors")
    for variant in (None, "fp16"):
        found = load_base_model(halves, variant=variant).unet.state_dict()
        assert all(torch.equal(tensor, found[name]) for name, tensor in wanted.items())
    load_base_model(folder, variant="fp16")  # a preference: this folder has the plain files only
