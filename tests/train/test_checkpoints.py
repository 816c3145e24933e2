"""Checkpoints: a damaged or foreign one ends in one sentence, and none is half written."""

from __future__ import annotations

import copy
import errno
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from lightning import Trainer
from torch.utils.data import DataLoader

from lamp_lightning.models.registry import MotionUNet
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.train.callbacks import TrainingProgress
from lamp_lightning.train.checkpoints import CheckpointFile, check_checkpoint, read_checkpoint
from lamp_lightning.train.tuner import MotionTuner
from random_models import WIDTH, random_unet


def parts(steps: int = 2, **settings: Any) -> tuple[MotionTuner, Trainer]:
    """A tuner and its trainer, not yet fitted."""
    unet = MotionUNet.from_unet(random_unet())
    tuner = MotionTuner(unet, DDIMScheduler(), schedule="cosine", warmup_steps=1, **settings)
    quiet = dict.fromkeys(
        ("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger"), False
    )
    progress = TrainingProgress("a")
    trainer = Trainer(accelerator="cpu", max_steps=steps, callbacks=[progress], **quiet)  # type: ignore[arg-type]
    trainer.strategy.checkpoint_io = CheckpointFile()
    return tuner, trainer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two steps, as Lightning writes it."""
    tuner, trainer = parts()
    torch.manual_seed(0)
    item = {"latents": torch.randn(4, 3, 8, 8), "text": torch.randn(4, WIDTH), "index": torch.tensor(0)}
    trainer.fit(tuner, DataLoader([item] * 2))
    file = tmp_path_factory.mktemp("checkpoint") / "last.ckpt"
    trainer.save_checkpoint(file)
    return file


@pytest.fixture(scope="module")
def fresh() -> tuple[MotionTuner, Trainer]:
    """What goes on with it."""
    return parts(4)


def test_a_sound_checkpoint_is_taken_and_gone_on_with(checkpoint, fresh):
    check_checkpoint(checkpoint, *fresh)
    tuner, trainer = parts(3)
    item = {"latents": torch.randn(4, 3, 8, 8), "text": torch.randn(4, WIDTH), "index": torch.tensor(0)}
    trainer.fit(tuner, DataLoader([item] * 4), ckpt_path=checkpoint)
    assert trainer.global_step == 3


def test_of_checkpoints_with_flipped_bits_none_is_read_as_another(checkpoint, tmp_path):
    sound, bits = read_checkpoint(checkpoint), checkpoint.read_bytes()
    directory = bits.rindex(b"PK\x05\x06") - 30_000
    drawn, found = random.Random(0), 0
    for trial in range(60):
        place = drawn.randrange(len(bits)) if trial % 2 else drawn.randrange(directory, len(bits))
        damaged = bytearray(bits)
        damaged[place] ^= 1 << drawn.randrange(8)
        file = tmp_path / "last.ckpt"
        file.write_bytes(damaged)
        try:
            content = read_checkpoint(file)
        except UserError as error:
            assert str(error).startswith(f"The checkpoint {file} cannot be read (")  # noqa: PT017
            assert str(error).endswith("Remove it to train this run from the beginning.")  # noqa: PT017
            found += 1
        else:
            assert same(content, sound), place
    assert found > 30


def test_a_checkpoint_whose_directory_calls_a_tensor_a_folder_is_damaged(checkpoint, tmp_path):
    bits = bytearray(checkpoint.read_bytes())
    entry = bits.index(b"PK\x01\x02", bits.index(b"PK\x01\x02") + 300)
    bits[entry + 38] ^= 16  # PyTorch reads it as nothing then, and every checksum is right
    (tmp_path / "last.ckpt").write_bytes(bits)
    with pytest.raises(UserError, match=r"its entry of .* is damaged"):
        read_checkpoint(tmp_path / "last.ckpt")


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def first(values: dict[str, Any]) -> str:
    return next(iter(values))


def _set(*keys: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    """Change the part at those keys; a key that is a function is of what it finds there."""

    def change(content: dict[str, Any]) -> None:
        *path, last = keys
        place: Any = content
        for key in path:
            place = place[key(place) if callable(key) else key]
        last = last(place) if callable(last) else last
        if to is None:
            del place[last]
        else:
            place[last] = to(place[last]) if callable(to) else to

    return change


MOMENTS = ("optimizer_states", 0, "state", 0)
GROUP = ("optimizer_states", 0, "param_groups", 0)
STEPS = ("loops", "fit_loop", "epoch_loop.automatic_optimization.optim_progress", "optimizer", "step")


def nan(tensor: torch.Tensor) -> torch.Tensor:
    return torch.full_like(tensor, torch.nan)


@pytest.mark.parametrize(("change", "message"), [
    (_set("state_dict", to=None), "it lacks 'state_dict'"),
    (_set("global_step", to=None), "it lacks 'global_step'"),
    (_set("global_step", to=-1), "'global_step' is -1"),
    (_set("global_step", to="2"), "'global_step' is '2'"),
    (_set("global_step", to=10**12), "'global_step' is 1000000000000"),
    (_set("global_step", to=7), "it is of step 7, but its loops counted 2"),
    (_set("pytorch-lightning_version", to="x"), "invalid version: 'x'"),
    (_set("state_dict", to=[]), "'state_dict' is []"),
    (_set("state_dict", first, to=None), "lacks parameter"),
    (_set("state_dict", "other", to=torch.zeros(1)), "has the unknown parameter other"),
    (_set("state_dict", first, to=torch.zeros(2, 2)), "has shape (2, 2), and this model needs"),
    (_set("state_dict", first, to=nan), "holds NaN or infinite values"),
    (_set("state_dict", first, to=torch.Tensor.half), "has numbers of the type torch.float16"),
    (_set("state_dict", first, to=lambda t: t.to_sparse()), "sparse"),
    (_set("state_dict", first, to=3), "is no tensor, but int"),
    (_set("variant", to={"kind": "other"}), "other"),
    (_set("variant", to=7), "'variant' is 7"),
    (_set("optimizer", to="sgd"), "'optimizer' is 'sgd'"),
    (_set("optimizer_states", to=[]), "'optimizer_states' is []"),
    (_set(*GROUP, "lr", to="fast"), "'optimizer_states.0.param_groups.0.lr' is 'fast'"),
    (_set(*GROUP, "lr", to=float("inf")), "finite"),
    (_set(*GROUP, "betas", to=(0.9, 1.5)), "betas"),
    (_set(*GROUP, "params", to=lambda values: values[:-1]), "its optimiser has"),
    (_set(*GROUP, "params", to=[0, 1]), "its optimiser has 2 parameters"),
    (_set(*GROUP, "fused", to="yes"), "fused"),
    (_set("optimizer_states", 0, "state", 9999, to={}), "a parameter 9999, which this model lacks"),
    (_set("optimizer_states", 0, "state", "a", to={}), "optimizer_states.0.state"),
    (_set(*MOMENTS, "exp_avg", to=None), "optimizer_states.0.state.0 lacks 'exp_avg'"),
    (_set(*MOMENTS, "exp_avg", to=torch.zeros(1)), "has shape (1,)"),
    (_set(*MOMENTS, "exp_avg_sq", to=nan), "holds NaN"),
    (_set(*MOMENTS, "exp_avg_sq", to=lambda t: t - 1), "has negative values"),
    (_set(*MOMENTS, "step", to=torch.zeros(3)), "has shape (3,)"),
    (_set("lr_schedulers", 0, "last_epoch", to=-5), "last_epoch"),
    (_set("lr_schedulers", 0, "step", to=3), "lr_schedulers has 'step', which is not known"),
    (_set("lr_schedulers", 0, "base_lrs", to=[torch.nan]), "base_lrs"),
    (_set("lr_schedulers", 0, "lr_lambdas", to=[{"a": 1}]), "lr_lambdas"),
    (_set("callbacks", "TrainingProgress", "seconds", to=None), "seconds"),
    (_set("callbacks", "TrainingProgress", "loss", to=torch.nan), "loss"),
    (_set("loops", "fit_loop", to=None), "'fit_loop'"),
    (_set("loops", "fit_loop", "epoch_progress", to=3), "loops.fit_loop.epoch_progress is '3'"),
    (_set("loops", "fit_loop", "unknown", to={}), "'unknown'"),
    (_set(*STEPS, "total", "completed", to=3), "it is of step 2, but its loops counted 3"),
    (_set(*STEPS, "total", "completed", to="2"), "completed is '2'"),
    (_set(*STEPS, "total", "increment_ready", to=1), "'increment_ready'"),
    (_set(*STEPS, "current", to=None), "'current'"),
    (_set("loops", "fit_loop", "epoch_loop.batch_progress", "is_last_batch", to=None), "is_last_batch"),
])  # fmt: skip
def test_a_checkpoint_with_a_wrong_part_ends_in_one_sentence(checkpoint, fresh, tmp_path, change, message):
    content = copy.deepcopy(torch.load(checkpoint, weights_only=True))
    change(content)
    file = tmp_path / "last.ckpt"
    torch.save(content, file)
    with pytest.raises(UserError) as raised:
        check_checkpoint(file, *fresh)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02}q\x00.", b"no checkpoint at all" * 99])
def test_what_is_no_checkpoint_at_all_ends_in_one_sentence(fresh, tmp_path, content):
    (tmp_path / "last.ckpt").write_bytes(content)
    with pytest.raises(UserError, match=r"The checkpoint .*last.ckpt cannot be read \(\w+\)\. Remove it"):
        check_checkpoint(tmp_path / "last.ckpt", *fresh)


@pytest.mark.parametrize("content", [[], 3, {}, torch.zeros(2), {1: 2}])
def test_other_files_of_pytorch_end_in_one_sentence(fresh, tmp_path, content):
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="cannot be used as the checkpoint of a run"):
        check_checkpoint(tmp_path / "last.ckpt", *fresh)


def test_a_checkpoint_never_runs_code(fresh, tmp_path):
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "touched",))

    torch.save({"state_dict": Evil()}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"cannot be read \(UnpicklingError\)"):
        check_checkpoint(tmp_path / "last.ckpt", *fresh)
    assert not (tmp_path / "touched").exists()


def test_a_checkpoint_is_written_beside_its_place_and_a_full_disk_keeps_the_former(tmp_path, monkeypatch):
    file = tmp_path / "last.ckpt"
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))  # nothing goes through there
    CheckpointFile().save_checkpoint({"step": 1}, file)

    def full(self: object, data: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lamp_lightning.runtime.files._Watched.write", full)
    with pytest.raises((UserError, OSError)) as raised:
        CheckpointFile().save_checkpoint({"step": 2}, file)
    assert isinstance(raised.value, UserError)
    assert "no space is left on the device" in str(raised.value)
    assert read_checkpoint(file) == {"step": 1}
    assert list(tmp_path.iterdir()) == [file]
