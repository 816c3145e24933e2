"""The data module with a real trainer: what a run sees, and that a resumed one sees the same."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning import LightningModule, Trainer

from data_fakes import FakeBase, write_clip, write_set
from lamp_lightning import MotionSetDataModule
from lamp_lightning.runtime.errors import UserError

REAL_CLIPS = Path(__file__).parents[3] / "shared" / "real_clips"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("clips") / "rain", 8, frames=8)


@pytest.fixture
def make(folder, tmp_path):
    def make(prepare=True, **settings):
        settings = {"folder": folder, "motion": "rain", "num_frames": 4, "cache_dir": tmp_path} | settings
        module = MotionSetDataModule(**settings)
        if prepare:
            module.prepare(FakeBase())
        return module

    return make


class Recorder(LightningModule):
    """Notes the samples it is given; the loss makes the weight depend on all latents seen."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[int]] = []

    def training_step(self, batch, _):
        self.seen.append(batch["index"].tolist())
        return (self.weight * batch["latents"].mean()).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _fit(data, steps: int, ckpt: Path | None = None, save: Path | None = None, **settings) -> Recorder:
    model = Recorder()
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        barebones=False,
        **settings,
    )
    trainer.fit(model, datamodule=data, ckpt_path=ckpt, weights_only=False if ckpt else None)
    if save:
        trainer.save_checkpoint(save)
    return model


def test_the_models_own_size_is_taken_where_none_is_given(make):
    data = make()
    assert data.size == (32, 32)
    batch = next(iter(data.train_dataloader()))
    assert batch["latents"].shape == (1, 8, 4, 8, 8)
    assert batch["text"].shape == (1, 7, 6)
    assert batch["latents"].dtype == torch.float32


def test_a_given_size_and_batch(make):
    data = make(size=[16, 32], batch_size=3, flip=True)
    assert next(iter(data.train_dataloader()))["latents"].shape == (3, 8, 4, 4, 8)
    assert len(data.latent_clips.flipped) == 8


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_sees_what_an_uninterrupted_one_does(make, tmp_path, accumulate):
    settings = {"accumulate_grad_batches": accumulate}
    whole = _fit(make(batch_size=2), 7, **settings)
    assert whole.seen == [[2 * n, 2 * n + 1] for n in range(7 * accumulate)]
    checkpoint = tmp_path / "half.ckpt"
    first = _fit(make(batch_size=2), 3, save=checkpoint, **settings)
    rest = _fit(make(batch_size=2), 7, ckpt=checkpoint, **settings)
    assert first.seen + rest.seen == whole.seen
    assert torch.equal(rest.weight, whole.weight)


def test_a_second_pass_goes_on_instead_of_starting_over(make):
    model = _fit(make(), 6, limit_train_batches=2)
    assert model.seen == [[n] for n in range(6)]


def test_of_two_devices_each_takes_its_share(make):
    shares = []
    for rank in range(2):
        data = make(batch_size=2)
        data.trainer = SimpleNamespace(
            global_rank=rank, world_size=2, global_step=5, accumulate_grad_batches=3
        )
        batches = iter(data.train_dataloader())
        shares.append([next(batches)["index"].tolist() for _ in range(2)])
    assert shares == [[[60, 62], [64, 66]], [[61, 63], [65, 67]]]


def test_training_before_preparing_says_what_to_do(make):
    with pytest.raises(UserError, match=r"call prepare\(base\)"):
        make(prepare=False).train_dataloader()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 30}, "size must be multiples of 4 for the model fake"),
        ({"size": [32, 0]}, r"size must be .*found \[32, 0\]"),
        ({"size": [32, 32, 3]}, r"size must be a whole number or \[height, width\]"),
        ({"num_frames": 1}, "data.num_frames must be a whole number from 2 to 10,000, but is 1"),
        ({"frame_stride": 0}, "data.frame_stride must be a whole number from 1 to 10,000, but is 0"),
        ({"batch_size": 1.5}, "data.batch_size must be a whole number from 1 to 4,096, but is 1.5"),
        ({"num_workers": -1}, "data.num_workers must be a whole number from 0 to 256"),
        ({"decode_timeout": 0}, "data.decode_timeout must be a number above 0"),
        ({"size": "wide"}, "size must be a whole number .*found 'wide'"),
        ({"frame_stride": 3}, "8 frames, but 4 frames at a stride of 3 need 10"),
        ({"folder": "no/such/folder"}, "no/such/folder: this motion folder does not exist"),
        ({"captions": "no/such/file.txt"}, "no/such/file.txt: this caption file does not exist"),
    ],
)
def test_wrong_settings_end_in_one_clear_message(make, settings, message):
    with pytest.raises(UserError, match=message):
        make(**settings)


def test_captions_reach_the_text(make, folder, tmp_path):
    file = tmp_path / "captions.txt"
    file.write_text("\n".join(f"rain {n}" for n in range(8)))
    data = make(captions=file)
    assert data.motion_set.prompts == [f"rain {n}" for n in range(8)]
    assert torch.equal(data.latent_clips.text[3], FakeBase().encode_prompts(["rain 3"]).text[0])


def test_one_clip_can_be_tuned_on(make, tmp_path):
    path = write_clip(tmp_path / "one.mp4")
    with pytest.warns(UserWarning, match="found 1 clip"):
        data = make(folder=path, num_frames=24)
    assert next(iter(data.train_dataloader()))["latents"].shape[2] == 24


def test_a_real_base_models_latents(make, random_base):
    from lamp_lightning.models.base.load import load_base_model

    base = load_base_model(random_base)
    data = make(prepare=False, flip=True)
    clips = data.prepare(base)
    assert data.size == (32, 32)
    pixels = torch.from_numpy(data.motion_set.clips[2].frames.copy()).permute(0, 3, 1, 2) / 127.5 - 1
    certain = torch.cat([clips.moments[2][:4], torch.full((4, 8, 8, 8), -60.0)])
    torch.testing.assert_close(
        clips.sample(certain).transpose(0, 1), base.latents_from_pixels(pixels), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(clips.text[5], base.encode_prompts(["rain"]).text[0])
    assert next(iter(data.train_dataloader()))["latents"].shape == (1, 4, 4, 8, 8)


@pytest.mark.skipif(not REAL_CLIPS.is_dir(), reason=f"needs the real footage in {REAL_CLIPS}")
def test_real_footage_becomes_batches(make):
    data = make(folder=REAL_CLIPS / "fire", motion="fire", num_frames=16, frame_stride=2, size=64)
    batch = next(iter(data.train_dataloader()))
    assert batch["latents"].shape == (1, 8, 16, 16, 16)
    assert batch["latents"].std() > 0.01
