"""What users of Lightning do by habit: each of it works with MotionTuner and MotionSetDataModule."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.profilers import AdvancedProfiler

from lamp_lightning.data.clips import MotionSet
from lamp_lightning.data.datamodule import ClipDataModule, MotionSetDataModule
from lamp_lightning.models.base.load import load_base_model
from lamp_lightning.models.registry import MotionUNet
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.train.tuner import MotionTuner
from random_models import random_unet

FRAMES = 3
OFTEN = {"val_check_interval": 1, "check_val_every_n_epoch": None}


@pytest.fixture(scope="module")
def folder(clips) -> Path:
    return clips / "waterfall"


@pytest.fixture
def make_data(folder, clips, random_base):
    def make(**changes: Any) -> MotionSetDataModule:
        settings = {"size": 32, "num_frames": FRAMES, "cache_dir": clips / "cache", "validation": 0.25}
        return MotionSetDataModule(folder, "waterfall", **{**settings, "base": random_base, **changes})

    return make


@pytest.fixture
def make_tuner(random_base):
    def make(**changes: Any) -> MotionTuner:
        torch.manual_seed(0)
        base = load_base_model(random_base)
        return MotionTuner(
            MotionUNet.from_unet(base.unet), base.scheduler, learning_rate=1e-2, base_model=str(random_base),
            **changes,
        )  # fmt: skip

    return make


@pytest.fixture
def trainer(tmp_path):
    def make(**settings: Any) -> Trainer:
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        quiet |= {"enable_checkpointing": False, "default_root_dir": tmp_path, "accelerator": "cpu"}
        return Trainer(**{"max_steps": 2, **quiet, **settings})

    return make


def tuned(tuner: MotionTuner) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in tuner.unet.named_parameters() if p.requires_grad}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def gradient_steps(tuner: MotionTuner) -> torch.optim.Optimizer:
    """Steps by the gradient itself: AdamW's first one is the whole rate, however small a gradient is."""
    return torch.optim.SGD([p for p in tuner.unet.parameters() if p.requires_grad], lr=1.0)


# -- held-out clips ------------------------------------------------------------------------------------------


def test_held_out_clips_are_measured_at_noise_that_never_changes(make_data, make_tuner, trainer, tmp_path):
    data, tuner = make_data(), make_tuner(seed=3)
    (first,) = trainer().validate(tuner, data, verbose=False)
    (other_seed,) = trainer().validate(make_tuner(seed=4), make_data(seed=5, batch_size=3), verbose=False)
    assert first.keys() == {"val/loss"}
    assert first["val/loss"] == pytest.approx(other_seed["val/loss"], rel=1e-5)
    assert [len(each) for each in (data.motion_set.clips, data.latent_clips, data.held_out_clips)] == [
        6,
        6,
        2,
    ]
    assert trainer().test(tuner, data, verbose=False) == [{"test/loss": first["val/loss"]}]
    fit = trainer(**OFTEN, logger=CSVLogger(tmp_path, name="", version=""), num_sanity_val_steps=0)
    fit.fit(tuner, data)
    assert fit.callback_metrics["val/loss"] != first["val/loss"]
    written = (tmp_path / "metrics.csv").read_text()
    assert "val/loss" in written.splitlines()[0]
    assert "learning_rate: 0.01" in (tmp_path / "hparams.yaml").read_text()


def test_held_out_clips_are_a_share_or_a_folder(make_data, random_base, clips):
    base = load_base_model(random_base)
    data = make_data(validation=str(clips / "rain"), max_clips=2)
    data.prepare(base)
    assert [len(data.latent_clips), len(data.held_out_clips)] == [2, 8]
    assert len(data.val_dataloader().dataset) == 32
    data = make_data(validation="0.01")  # at least one, the last
    data.prepare(base)
    assert [clip.path.name for clip in data.motion_set.clips] == [f"clip_{k}.mp4" for k in range(7)]
    held_out = data.val_dataloader().dataset
    assert torch.equal(held_out[3]["latents"], held_out[3]["latents"])
    assert not torch.equal(held_out[0]["latents"], held_out[3]["latents"])


def test_what_cannot_be_held_out_is_said_in_one_sentence(make_data, make_tuner, trainer, clips):
    with pytest.raises(UserError, match="leaves none to tune on: add clips, or name a folder"):
        make_data(max_clips=1).setup()
    with pytest.raises(UserError, match=r"a share between 0 and 1, or a folder of clips, found 8"):
        make_data(validation=8)
    with pytest.raises(UserError, match="does not exist"):
        make_data(validation="nowhere").setup()
    with pytest.raises(UserError, match=r"Give Trainer\(val_check_interval=<batches>"):
        trainer().fit(make_tuner(), make_data())
    with pytest.raises(UserError, match=r"no held-out clips to test on: give .* data\.validation=0\.25"):
        trainer().test(make_tuner(), make_data(validation=None))
    clip = clips / "waterfall" / "clip_0.mp4"
    edited = ClipDataModule(clip, "x", size=32, num_frames=FRAMES, validation=0.5)
    with pytest.raises(UserError, match="Of a single video nothing can be held out"):
        edited.split(MotionSet("x"), (32, 32))


def test_early_stopping_and_the_best_checkpoint_look_at_held_out_clips(
    make_data, make_tuner, trainer, tmp_path
):
    stop = EarlyStopping("val/loss", patience=1, min_delta=1e9)
    best = ModelCheckpoint(tmp_path, monitor="val/loss", filename="best")
    fit = trainer(max_steps=50, callbacks=[stop, best], enable_checkpointing=True, **OFTEN)
    fit.fit(make_tuner(), make_data())
    assert fit.global_step == 2
    assert float(best.best_model_score) == pytest.approx(
        trainer().validate(
            MotionTuner.load_from_checkpoint(best.best_model_path), make_data(), verbose=False
        )[0]["val/loss"]
    )


# -- the other loops -----------------------------------------------------------------------------------------


def test_predicted_clips_go_on_from_their_first_frames(make_data, make_tuner, trainer):
    tuner, data = make_tuner(), make_data(batch_size=2)
    tuner.sampler = tuner.sampler.changed({"num_inference_steps": 2})
    (clips,) = trainer().predict(tuner, data)
    (batch,) = data.predict_dataloader()
    assert clips.shape == batch["latents"].shape == (2, 4, FRAMES, 8, 8)
    assert torch.equal(clips[:, :, 0], batch["latents"][:, :, 0])
    assert not torch.equal(clips[:, :, 1], batch["latents"][:, :, 1])
    assert torch.equal(clips, trainer().predict(tuner, data)[0])
    with torch.no_grad():
        predicted = tuner(batch["latents"], torch.tensor(9), batch["text"])
        assert torch.equal(predicted, tuner.unet(batch["latents"], 9, batch["text"]))


def test_clips_are_prepared_by_the_usual_hooks_with_the_tuners_own_model(make_data, make_tuner, trainer):
    data = make_data(base=None)
    with pytest.raises(
        UserError, match=r"Which model encodes the clips\? Give MotionSetDataModule\(\.\.\., base="
    ):
        data.setup("fit")
    trainer(fast_dev_run=True).fit(make_tuner(), data)
    assert len(data.latent_clips) == 6


# -- checkpoints ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, random_base, clips) -> Path:
    """Of a bfloat16 model with per-frame norm, after one step at another rate than the default."""
    from lamp_lightning.models.variant import Variant

    torch.manual_seed(0)
    base = load_base_model(random_base, torch_dtype=torch.bfloat16)
    unet = MotionUNet.from_unet(base.unet, "per_frame", Variant(gate=False))
    tuner = MotionTuner(unet, base.scheduler, learning_rate=7e-3, seed=9, base_model=str(random_base))
    data = MotionSetDataModule(
        clips / "waterfall", "waterfall", size=32, num_frames=2, cache_dir=clips / "cache", base=random_base
    )
    file = tmp_path_factory.mktemp("checkpoint") / "mine.ckpt"
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(
        max_steps=1, accelerator="cpu", precision="bf16-mixed", enable_checkpointing=False, **quiet
    )
    trainer.fit(tuner, data)
    trainer.save_checkpoint(file)
    torch.save(tuned(tuner), file.with_suffix(".pt"))
    return file


def test_a_checkpoint_loads_by_itself(checkpoint, random_base):
    tuner = MotionTuner.load_from_checkpoint(checkpoint)
    assert same(tuned(tuner), torch.load(checkpoint.with_suffix(".pt")))
    assert (tuner.learning_rate, tuner.seed, tuner.base_model) == (7e-3, 9, str(random_base))
    assert (tuner.unet.norm, tuner.unet.variant.gate, tuner.frozen_dtype) == (
        "per_frame",
        False,
        torch.bfloat16,
    )
    assert tuner.hparams.learning_rate == 7e-3
    assert MotionTuner.load_from_checkpoint(checkpoint, learning_rate=1e-4, seed=2).learning_rate == 1e-4
    frozen = torch.load(checkpoint, weights_only=True)["state_dict"].keys() - tuned(tuner).keys()
    assert {name for name in frozen if name.removeprefix("unet.") not in tuned(tuner)} == set()


def test_a_checkpoint_of_somebody_else_runs_no_code_and_fits_its_model(
    checkpoint, random_base, random_model, tmp_path
):
    class Evil:
        def __reduce__(self):
            return (Path(tmp_path / "ran").touch, ())

    content = torch.load(checkpoint, weights_only=True)
    file = tmp_path / "other.ckpt"

    def refused(changes: dict[str, Any], **given: Any) -> str:
        torch.save({**content, **changes}, file)
        with pytest.raises(UserError) as error:
            MotionTuner.load_from_checkpoint(file, **given)
        return str(error.value)

    hyper = content["hyper_parameters"]
    assert "cannot be read" in refused({"more": Evil()})
    assert not (tmp_path / "ran").exists()
    evil = {**hyper, "_instantiator": "os.system"}
    assert "'_instantiator', which a file may not give" in refused({"hyper_parameters": evil})
    assert "learning_rate" in refused({"hyper_parameters": {**hyper, "learning_rate": "fast"}})
    assert "of version 0.1" in refused({"hyper_parameters": {}, "base": None} | {"hyper_parameters": None})
    unnamed = {**hyper, "base_model": None}
    assert "give base_model=<folder or hub id>" in refused({"hyper_parameters": unnamed})
    wrong = {**content["base"], "fingerprint": [0.0] * len(content["base"]["fingerprint"])}
    assert "was tuned on other weights" in refused({"base": wrong})


# -- resuming, averaging, and all the rest -------------------------------------------------------------------


def test_an_average_of_weights_resumes_and_keeps_no_frozen_ones(make_data, make_tuner, trainer, tmp_path):
    def fit(steps: int, name: str, resume: str | None = None) -> MotionTuner:
        keep = ModelCheckpoint(tmp_path, filename=name, save_on_train_epoch_end=False, every_n_train_steps=2)
        average = EMAWeightAveraging(decay=0.5)
        tuner = make_tuner()
        run = trainer(max_steps=steps, callbacks=[average, keep], enable_checkpointing=True, **OFTEN)
        run.fit(tuner, make_data(), ckpt_path=resume)
        return tuner

    whole = fit(4, "whole")
    fit(2, "half")
    assert same(tuned(fit(4, "resumed", str(tmp_path / "half.ckpt"))), tuned(whole))
    saved = torch.load(tmp_path / "half.ckpt", weights_only=True)
    names = set(whole.tuned_names())
    assert saved["state_dict"].keys() == saved["current_model_state"].keys() == names
    assert not same(saved["state_dict"], saved["current_model_state"])
    averages = tuned(MotionTuner.load_from_checkpoint(tmp_path / "half.ckpt"))
    assert same({f"unet.{name}": p for name, p in averages.items()}, saved["state_dict"])


class Losses(Callback):
    def __init__(self) -> None:
        self.seen: list[tuple[list[int], float]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.seen.append((batch["index"].tolist(), float(outputs["loss"])))


def test_overfitting_sees_the_same_batches_again(make_data, make_tuner, trainer):
    losses = Losses()
    fit = trainer(max_steps=4, overfit_batches=2, callbacks=[losses], check_val_every_n_epoch=2)
    fit.fit(make_tuner(), make_data(batch_size=1))
    assert [index for index, _ in losses.seen] == [[0], [1], [0], [1]]
    assert losses.seen[2][1] != losses.seen[0][1]
    assert fit.callback_metrics["val/loss"] > 0


def test_fast_dev_run_and_a_compiled_module(make_data, make_tuner, trainer):
    fit = trainer(fast_dev_run=2)
    fit.fit(make_tuner(), make_data())
    assert fit.global_step == 2
    levels = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}  # one: to trace is slow
    compiled, plain = (
        MotionTuner(MotionUNet.from_unet(random_unet("sd1", block_out_channels=(8,), **levels)), scheduler)
        for scheduler in [make_tuner().scheduler] * 2
    )
    trainer(max_steps=1).fit(torch.compile(compiled, backend="eager"), make_data(validation=None))
    trainer(max_steps=1).fit(plain, make_data(validation=None))
    assert all(
        torch.allclose(a, b) for a, b in zip(tuned(compiled).values(), tuned(plain).values(), strict=True)
    )


def test_a_strategy_that_spawns_processes_can_send_them_everything(make_data, make_tuner, trainer):
    tuner, data = make_tuner(), make_data()
    fit = trainer(max_steps=1, **OFTEN)
    fit.fit(tuner, data)
    sent_tuner, sent_data, sent_trainer = pickle.loads(pickle.dumps((tuner, data, fit)))
    assert same(tuned(sent_tuner), tuned(tuner))
    assert len(sent_data.held_out_clips) == 2
    assert sent_trainer.global_step == 1
    sent_tuner.load_state_dict(tuner.state_dict())


@pytest.mark.slow
def test_two_spawned_processes_tune_as_one(make_data, make_tuner, trainer):
    tuner, plain, before = make_tuner(), make_tuner(), tuned(make_tuner())
    for each in (tuner, plain):
        each.configure_optimizers = partial(gradient_steps, each)
    trainer(max_steps=1, strategy="ddp_spawn", devices=2).fit(tuner, make_data(validation=None))
    trainer(max_steps=1).fit(plain, make_data(validation=None, batch_size=2))
    after = tuned(plain)
    assert all(torch.allclose(p, after[name], atol=1e-5) for name, p in tuned(tuner).items())
    assert max(float((p - before[name]).abs().max()) for name, p in after.items()) > 1e-2


def test_a_profiler_reports(make_data, make_tuner, trainer, tmp_path):
    profiler = AdvancedProfiler(dirpath=tmp_path, filename="report")
    trainer(max_steps=1, profiler=profiler).fit(make_tuner(), make_data(validation=None))
    assert "training_step" in (tmp_path / "fit-report.txt").read_text()
