"""Precisions and optimisers: what a run computes in, keeps and saves, and what is refused beforehand."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from lamp_lightning.data.clips import decode_clip
from lamp_lightning.models.base.load import load_base_model
from lamp_lightning.models.registry import MotionUNet
from lamp_lightning.runtime import precision as precisions
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.precision import check_precision, fast_float32, sampling_dtype
from lamp_lightning.sample import __main__ as sample
from lamp_lightning.train import __main__ as train
from lamp_lightning.train.callbacks import HOPELESS
from lamp_lightning.train.tuner import MotionTuner
from random_models import save_random_model

WORKING = [("32-true", "float32"), ("bf16-mixed", "float32"), ("bf16-mixed", "bfloat16")]  # on a CPU
CLIPPED = 0.1  # below the gradients' norm
CONSTANT = ["tuner.schedule=constant", "tuner.warmup_steps=0"]  # a rate that does not depend on max_steps


@pytest.fixture
def tuners(monkeypatch: pytest.MonkeyPatch) -> list[MotionTuner]:
    """The tuners of the runs of a test."""
    seen: list[MotionTuner] = []
    configure = MotionTuner.configure_optimizers

    def spy(self: MotionTuner) -> object:
        seen.append(self)
        return configure(self)

    monkeypatch.setattr(MotionTuner, "configure_optimizers", spy)
    return seen


@pytest.fixture
def plain(small: list[str]) -> list[str]:
    return ["motion=waterfall", "logger=none", *small, *CONSTANT, "tuner.learning_rate=1e-3"]


def checkpoint(run: str) -> dict:
    return torch.load(Path(run) / "checkpoints" / "last.ckpt", weights_only=True)


def flat(state: object) -> list[object]:
    """All leaves of nested dictionaries, in order."""
    return [x for value in state.values() for x in flat(value)] if isinstance(state, dict) else [state]


def assert_same_end(a: str, b: str) -> None:
    """The same weights and optimiser state, to the bit."""
    one, two = (
        flat({"weights": c["state_dict"], "moments": c["optimizer_states"][0]["state"]})
        for c in (checkpoint(a), checkpoint(b))
    )
    assert len(one) == len(two) > 0
    for x, y in zip(one, two, strict=True):
        assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y


# -- what works ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "dtype", "kind"),
    [*((*pair, "sd1") for pair in WORKING), ("bf16-mixed", "bfloat16", "sdxl")],
)
def test_a_combination_trains_and_paints(plain, random_model, tuners, precision, dtype, kind, capsys):
    words = [f"trainer.precision={precision}", f"model.dtype={dtype}", f"model.path={random_model(kind)}"]
    assert train.main([*plain, *words, "hydra.run.dir=run"]) == 0
    (tuner,) = tuners
    unet, names = tuner.unet, tuner.unet.trainable_names()
    tuned = {id(p) for p in unet.tuned_parameters()}
    assert {p.dtype for p in unet.tuned_parameters()} == {torch.float32}
    assert {p.dtype for p in unet.parameters() if id(p) not in tuned} == {getattr(torch, dtype)}

    adapter = load_file("run/adapter.safetensors")
    assert sorted(adapter) == names
    saved = checkpoint("run")
    assert sorted(saved["state_dict"]) == tuner.tuned_names()
    (optimizer,) = saved["optimizer_states"]
    assert len(optimizer["param_groups"][0]["params"]) == len(optimizer["state"]) == len(names)
    everything = [*flat(saved["state_dict"]), *flat(optimizer["state"])]
    assert {x.dtype for x in everything} == {torch.float32}
    assert {x.dtype for x in adapter.values()} == {torch.float16}, "the file alone is in half precision"
    query = next(name for name in names if name.endswith("attn1.to_q.weight"))
    assert adapter[query].any(), "the queries' change"

    assert len(decode_clip(next(Path("run/videos").glob("*.mp4"))).frames) == 4
    other = "bf16-mixed" if precision == "32-true" else "32-true"
    assert sample.main(["run=run", f"precision={other}", "out=other.mp4", "threads=1"]) == 0
    assert len(decode_clip("other.mp4").frames) == 4
    assert "Error" not in capsys.readouterr().err


def test_a_half_precision_run_resumes_to_the_same_bits(plain):
    words = [*plain, "trainer.precision=bf16-mixed", "model.dtype=bfloat16", "samples.final=0"]
    assert train.main([*words, "hydra.run.dir=whole", "trainer.max_steps=4"]) == 0
    assert train.main([*words, "hydra.run.dir=parts", "trainer.max_steps=2"]) == 0
    assert train.main(["resume=parts", "trainer.max_steps=4"]) == 0
    assert checkpoint("parts")["global_step"] == 4
    assert_same_end("whole", "parts")


class Batches(torch.utils.data.IterableDataset):
    """An endless stream of random clips."""

    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        index = 0
        while True:
            latents = torch.randn(4, 2, 8, 8, generator=generator)
            yield {"latents": latents, "text": torch.randn(16, 16, generator=generator), "index": index}
            index += 1


def tune(folder: Path, dtype: torch.dtype, plugin: MixedPrecision | None, *, steps: int, **settings) -> tuple:
    """Train a model of random weights without the command; returns the tuner and the losses."""
    base = load_base_model(folder, torch_dtype=dtype)
    torch.manual_seed(0)
    tuner = MotionTuner(MotionUNet.from_unet(base.unet), base.scheduler, learning_rate=1e-3, **settings)
    losses: list[float] = []
    tuner.on_train_batch_end = lambda outputs, *_: losses.append(float(outputs["loss"]))  # type: ignore
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        plugins=plugin,
        gradient_clip_val=CLIPPED,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(tuner, DataLoader(Batches(), batch_size=1))
    return tuner, losses


def way(folder: Path, tuned: Iterable[tuple[str, torch.Tensor]]) -> torch.Tensor:
    """From the weights that the model in ``folder`` begins with to the tuned ones, as one vector."""
    torch.manual_seed(0)
    unet = MotionUNet.from_unet(load_base_model(folder).unet)
    end = dict(tuned)
    names = unet.trainable_names()
    return torch.cat([(end[name] - unet.get_parameter(name)).detach().flatten() for name in names])


@pytest.fixture
def like_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the CPU train in 16-mixed, with torch's float16 autocast and loss scaler for CPUs."""
    monkeypatch.setattr(precisions, "is_cpu", lambda accelerator: False)


@pytest.mark.usefixtures("like_a_gpu")
@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16)]
)
def test_half_frozen_weights_learn_what_float32_learns(random_base, precision, dtype):
    reference, wanted = tune(random_base, torch.float32, None, steps=4)
    half, losses = tune(random_base, dtype, MixedPrecision(precision, "cpu"), steps=4)
    assert losses == pytest.approx(wanted, rel=2e-3)
    ways = [way(random_base, t.unet.named_parameters()) for t in (reference, half)]
    assert torch.cosine_similarity(*ways, dim=0) > 0.99


@pytest.mark.usefixtures("like_a_gpu")
@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", "muon"])
def test_scaled_losses_are_clipped_at_their_true_size(random_base, monkeypatch, optimizer):
    if optimizer == "adamw8bit":
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install bitsandbytes")
    norms = []
    clip = MixedPrecision.clip_gradients

    def spy(self, optimizer, *args, **kwargs):
        clip(self, optimizer, *args, **kwargs)
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(float(torch.nn.utils.get_total_norm(gradients)))

    monkeypatch.setattr(MixedPrecision, "clip_gradients", spy)
    scaler = torch.amp.GradScaler("cpu")
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    tuner, _ = tune(random_base, torch.float16, plugin, steps=2, optimizer=optimizer)
    assert scaler.get_scale() > 1000
    assert norms == pytest.approx([CLIPPED] * 2, rel=1e-3)
    opened = [p for name, p in tuner.named_parameters() if name.endswith("conv1d.weight")]
    assert all(float(p.detach().abs().max()) > 0 for p in opened)


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "dtype", "words"),
    [
        ("32-true", "bfloat16", ["model.dtype=bfloat16", "trainer.precision=bf16-mixed"]),
        ("32-true", "float16", ["model.dtype=float16", "model.dtype=float32"]),
        ("bf16-mixed", "float16", ["model.dtype=float16", "model.dtype=bfloat16"]),
        ("16-mixed", "float32", ["trainer.precision=16-mixed", "bf16-mixed or 32-true"]),
        ("16-true", "float32", ["'16-true'", "bf16-mixed"]),
        ("bf16-true", "bfloat16", ["'bf16-true'", "bf16-mixed"]),
        ("64-true", "float32", ["'64-true'", "32-true"]),
    ],
)
def test_what_cannot_train_is_refused_before_the_first_step(plain, precision, dtype, words, capsys):
    wanted = [f"trainer.precision={precision}", f"model.dtype={dtype}"]
    assert train.main([*plain, *wanted, "hydra.run.dir=run"]) == 1
    err = capsys.readouterr().err
    assert err.count("Error:") == 1
    assert "Traceback" not in err
    assert all(word in err for word in words)
    assert not Path("run/adapter.safetensors").exists()


@pytest.mark.parametrize(
    ("precision", "dtype", "accelerator", "advice"),
    [
        ("32-true", "bfloat16", "cpu", ["trainer.precision=bf16-mixed", "model.dtype=float32"]),
        ("32-true", "float16", "cpu", ["model.dtype=float32"]),
        ("32-true", "float16", "gpu", ["trainer.precision=16-mixed", "model.dtype=float32"]),
        ("bf16-mixed", "float16", "cpu", ["model.dtype=bfloat16", "model.dtype=float32"]),
        (
            "16-mixed",
            "bfloat16",
            "gpu",
            ["trainer.precision=bf16-mixed", "model.dtype=float16", "model.dtype=float32"],
        ),
    ],
)
def test_what_is_advised_instead_would_do(precision, dtype, accelerator, advice):
    with pytest.raises(UserError, match=f"take {' or '.join(advice)}\\.$"):
        check_precision(precision, dtype, accelerator)
    for way in advice:
        key, _, value = way.partition("=")
        changed = {"trainer.precision": precision, "model.dtype": dtype, key: value}
        check_precision(changed["trainer.precision"], changed["model.dtype"], accelerator)


def test_a_cpu_does_not_train_in_float16():
    check_precision("16-mixed", "float16", "gpu")
    with pytest.raises(UserError, match=r"16-mixed needs a GPU.*bf16-mixed or 32-true"):
        check_precision("16-mixed", "float32", "cpu")


@pytest.mark.parametrize(
    ("dtype", "precision", "wanted"),
    [
        ("bfloat16", "bf16-mixed", "bfloat16"),
        ("bfloat16", "16-mixed", "float16"),
        ("float16", "bf16-mixed", "bfloat16"),
        ("float16", "32-true", "float32"),
        ("float32", "bf16-mixed", "float32"),
    ],
)
def test_a_run_is_painted_in_other_precisions_than_it_was_tuned_in(dtype, precision, wanted):
    assert sampling_dtype(dtype, precision) == wanted


def test_a_gpu_multiplies_float32_in_tf32_and_a_cpu_is_left_alone():
    before = torch.get_float32_matmul_precision()
    try:
        fast_float32("cpu")
        assert torch.get_float32_matmul_precision() == before
        fast_float32("cuda")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_run_without_a_loss_is_ended(plain, monkeypatch, capsys):
    step = MotionTuner.training_step
    lost = lambda self, batch, k: step(self, batch, k) * (float("nan") if k >= 2 else 1)  # noqa: E731
    monkeypatch.setattr(MotionTuner, "training_step", lost)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure: closure())  # as a loss scaler does
    words = ["trainer.max_steps=40", "save_every=1", "hydra.run.dir=run", "trainer.precision=32-true"]
    assert train.main([*plain, *words]) == 1
    err = capsys.readouterr().err
    assert f"diverged by step {HOPELESS + 2}: the loss of the last {HOPELESS} steps" in err
    assert "begin a new run with a lower tuner.learning_rate." in err


# -- the 8-bit optimiser -------------------------------------------------------------------------------------


@pytest.fixture
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with tuned tensors large enough (4096 numbers) to be kept in 8 bits."""
    return save_random_model(tmp_path_factory.mktemp("wide"), block_out_channels=(16, 64))


def test_8_bit_moments_learn_are_small_and_resume_to_the_same_bits(plain, wide, tuners, capsys):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install bitsandbytes")
    words = [*plain, f"model.path={wide}", "trainer.precision=32-true", "samples.final=0"]
    words.append("model.layers.gate=true")  # all that LAMP tunes
    eight = [*words, "tuner.optimizer=adamw8bit"]
    assert train.main([*eight, "hydra.run.dir=whole", "trainer.max_steps=4"]) == 0
    assert train.main([*eight, "hydra.run.dir=parts", "trainer.max_steps=2"]) == 0
    assert train.main(["resume=parts", "trainer.max_steps=4"]) == 0
    assert_same_end("whole", "parts")
    assert train.main([*words, "hydra.run.dir=adamw", "trainer.max_steps=4"]) == 0

    sizes = {}
    for run in ("whole", "adamw"):
        moments = [
            x for x in flat(checkpoint(run)["optimizer_states"][0]["state"]) if isinstance(x, torch.Tensor)
        ]
        sizes[run] = sum(x.numel() * x.element_size() for x in moments)
        large = {x.dtype for x in moments if x.numel() >= 4096}
        assert large == {torch.uint8 if run == "whole" else torch.float32}
    assert sizes["whole"] < 0.4 * sizes["adamw"]
    # Steps in 8 bits lead where those in 32 bits do.
    ways = [way(wide, load_file(f"{run}/adapter.safetensors").items()) for run in ("whole", "adamw")]
    assert torch.cosine_similarity(*ways, dim=0) > 0.99

    capsys.readouterr()
    assert train.main(["resume=parts", "tuner.optimizer=adamw", "trainer.max_steps=5"]) == 1
    assert "Resume with tuner.optimizer=adamw8bit" in capsys.readouterr().err


def too_old() -> types.ModuleType:
    module = types.ModuleType("bitsandbytes")
    module.__version__ = "0.49.2"  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize(
    ("installed", "words"),
    [(lambda: None, ["pip install bitsandbytes"]), (too_old, ["0.49.2", "pip install --upgrade"])],
    ids=["missing", "too old"],
)
def test_without_bitsandbytes_it_is_said_what_to_install(
    plain, monkeypatch, capsys, installed: Callable[[], types.ModuleType | None], words: list[str]
):
    monkeypatch.setitem(sys.modules, "bitsandbytes", installed())
    assert train.main([*plain, "tuner.optimizer=adamw8bit", "hydra.run.dir=run"]) == 1
    err = capsys.readouterr().err
    assert all(word in err for word in [*words, "tuner.optimizer=adamw8bit", "tuner.optimizer=adamw."])
    assert "Traceback" not in err


def test_an_unknown_optimiser_is_refused(random_base):
    base = load_base_model(random_base)
    with pytest.raises(UserError, match="one of adamw, adamw8bit, muon, but is 'sgd'"):
        MotionTuner(MotionUNet.from_unet(base.unet), base.scheduler, optimizer="sgd")
