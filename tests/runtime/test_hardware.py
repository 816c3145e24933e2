"""Every model starts by its defaults on each kind of machine; the five kinds are simulated on this one."""

from __future__ import annotations

import json
import types
from pathlib import Path

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.trainer.connectors.accelerator_connector import _AcceleratorConnector

from lamp_lightning.runtime import hardware as machine
from lamp_lightning.runtime import precision as precisions
from lamp_lightning.runtime.command_settings import Train
from lamp_lightning.runtime.config import composed, options
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.hardware import KINDS, Hardware, hardware, measure_products
from lamp_lightning.runtime.precision import check_precision
from lamp_lightning.runtime.schema import check_settings
from lamp_lightning.train import __main__ as train

SUITS = {  # precision, and the frozen weights of a large model
    "cpu": ("32-true", "float32"),
    "cpu_bf16": ("bf16-mixed", "bfloat16"),
    "cuda": ("16-mixed", "float16"),
    "cuda_bf16": ("bf16-mixed", "bfloat16"),
    "mps": ("32-true", "float32"),
}
MODELS = {"tiny": None, "sd14": "sd1", "sd15": "sd1", "sd21": "sd2", "sdxl": "sdxl"}
MODELS |= {"tiny_dit": None, "sana": "sana", "sd35": "sd3", "ltx": "ltx"}
LARGE = ("sdxl", "sana", "sd35", "ltx")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each kind of hardware in turn, as far as the product asks for it."""
    monkeypatch.setenv(machine.VARIABLE, request.param)
    return request.param


def test_all_models_are_known_here():
    assert set(MODELS) == set(options("model"))
    assert set(SUITS) == set(KINDS)


@pytest.mark.parametrize("model", MODELS)
def test_defaults_of_a_model_go_together(kind, model):
    cfg = composed("train", [f"model={model}"])
    check_settings(Train, cfg)
    check_precision(cfg.trainer.precision, cfg.model.dtype, cfg.trainer.accelerator)
    precision, dtype = SUITS[kind]
    assert cfg.trainer.precision == precision
    assert cfg.model.dtype == (dtype if model in LARGE else "float32")


@pytest.mark.parametrize("given", [["trainer=cpu"], ["trainer=gpu"], ["experiment=paper"], ["trainer=ddp"]])
def test_trainers_and_experiments_ask_for_nothing_that_is_not_there(kind, given):
    gpu = kind if kind.startswith(("cuda", "mps")) else "cuda_bf16"  # asked for where there is none
    if given == ["trainer=gpu"] and kind == "mps":
        gpu = "mps"
    cfg = composed("train", [*given, "model=sdxl"])
    check_precision(cfg.trainer.precision, cfg.model.dtype, cfg.trainer.accelerator)
    if given != ["trainer=cpu"]:
        assert cfg.trainer.precision == SUITS[gpu][0]


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (["trainer.precision=32-true"], ("32-true", "float32")),
        (["trainer.precision=bf16-mixed"], ("bf16-mixed", "bfloat16")),
        (["model.dtype=bfloat16"], ("bf16-mixed", "bfloat16")),
        (["model.dtype=float32", "trainer.precision=bf16-mixed"], ("bf16-mixed", "float32")),
    ],
)
def test_what_the_user_says_decides_what_they_do_not_say(kind, said, wanted):
    cfg = composed("train", ["model=sdxl", *said])
    check_precision(cfg.trainer.precision, cfg.model.dtype, cfg.trainer.accelerator)
    assert (cfg.trainer.precision, cfg.model.dtype) == wanted


def test_edits_ask_for_nothing_that_is_not_there(kind):
    cfg = composed("edit", ["model=sdxl", "video=a.mp4", "prompt=a"])
    assert (cfg.trainer.precision, cfg.model.dtype) == SUITS[kind]


@pytest.fixture
def simulated(kind: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Lightning computes here what it would compute on that device, in the same number formats."""

    def plugin(self: _AcceleratorConnector) -> object:
        half = self._precision_flag
        scaler = torch.amp.GradScaler("cpu") if half == "16-mixed" else None
        return MixedPrecision(half, "cpu", scaler) if half.endswith("-mixed") else original(self)

    original = _AcceleratorConnector._check_and_init_precision
    monkeypatch.setattr(_AcceleratorConnector, "_check_and_init_precision", plugin)
    monkeypatch.setattr(precisions, "is_cpu", lambda accelerator: kind.startswith("cpu"))
    return kind


@pytest.mark.parametrize("model", ["tiny", "sd14", "sd21", "sdxl"])  # sd15 is sd14 by another name
def test_every_model_tunes_and_paints_by_its_defaults(
    simulated, small, random_model, clips, model, capsys, tmp_path
):
    said = [word for word in small if not word.startswith(("model.", "data.size"))]
    if MODELS[model] is None:
        said += ["data.num_frames=2", "sampler.paint_steps=2", "data.size=[32,32]"]
    else:
        paths = [word for word in small if word.startswith(("model.clip", "data.size"))]
        said += [*paths, f"model.path={random_model(MODELS[model])}", "model.variant=null"]
    final = int(model in ("tiny", "sdxl"))  # the others would paint the same way
    words = [
        f"model={model}",
        "motion=waterfall",
        "logger=none",
        *said,
        "trainer.max_steps=1",
        f"samples.final={final}",
    ]
    assert train.main([*words, "hydra.run.dir=run"]) == 0
    precision = SUITS[simulated][0]
    assert f" in {precision}." in capsys.readouterr().out
    run = Path("run")
    kept = json.loads((run / "run.json").read_text())["hardware"]
    assert kept["kind"] == simulated
    assert f"precision: {precision}" in (run / "config.yaml").read_text()
    assert len(list((run / "videos").glob("*.mp4"))) == final


# -- finding out ---------------------------------------------------------------------------------------------


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> types.SimpleNamespace:
    """A processor whose products take the seconds that ``times`` says; ``asked`` counts measurements."""
    made = types.SimpleNamespace(times={"float32": 1.0, "bfloat16": 0.5}, asked=0)

    def measure() -> dict[str, float]:
        made.asked += 1
        return made.times

    monkeypatch.delenv(machine.VARIABLE, raising=False)
    monkeypatch.setenv("LAMP_LIGHTNING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(machine, "measure_products", measure)
    machine.fast_bfloat16.cache_clear()
    yield made
    machine.fast_bfloat16.cache_clear()


@pytest.mark.parametrize(
    ("bfloat16", "kind"), [(0.1, "cpu_bf16"), (0.79, "cpu_bf16"), (0.81, "cpu"), (3.0, "cpu")]
)
def test_a_processor_is_known_by_a_measurement(processor, bfloat16, kind):
    processor.times = {"float32": 1.0, "bfloat16": bfloat16}
    assert hardware("cpu").kind == kind


def test_the_measurement_is_remembered_and_damage_only_measures_anew(processor, tmp_path):
    file = tmp_path / "cache" / "processor.json"
    for content in (
        None,
        None,
        "{",
        '{"processor": 3}',
        "[]",
        '{"processor":"other","float32":1,"bfloat16":2}',
    ):
        if content is not None:
            file.write_text(content)
        machine.fast_bfloat16.cache_clear()
        assert hardware("cpu").kind == "cpu_bf16"
    assert processor.asked == 5  # all but the second
    machine.fast_bfloat16.cache_clear()
    assert hardware("cpu").kind == "cpu_bf16"
    assert processor.asked == 5


def test_a_measurement_takes_some_tenths_of_a_second_and_leaves_threads_as_they_were():
    threads = torch.get_num_threads()
    found = measure_products(size=64, repetitions=2)
    assert set(found) == {"float32", "bfloat16"}
    assert all(seconds > 0 for seconds in found.values())
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("bf16", "kind"), [(True, "cuda_bf16"), (False, "cuda")])
def test_cards_with_and_without_bfloat16(monkeypatch, bf16, kind):
    monkeypatch.delenv(machine.VARIABLE, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    asked = {}

    def supported(including_emulation: bool = True) -> bool:
        asked["emulated"] = including_emulation
        return bf16

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    for device in ("auto", "gpu", "cuda", "cuda:1"):
        assert hardware(device) == Hardware(kind, "a card")
    assert asked == {"emulated": False}  # T4 and V100 emulate it, slowly
    assert hardware("cpu").device == "cpu"


def test_apples_gpu(monkeypatch):
    monkeypatch.delenv(machine.VARIABLE, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert hardware().kind == hardware("gpu").kind == hardware("mps").kind == "mps"


def test_a_kind_that_is_none_is_named(monkeypatch):
    monkeypatch.setenv(machine.VARIABLE, "tpu")
    with pytest.raises(UserError, match=r"LAMP_LIGHTNING_HARDWARE must be one of cpu, .*'tpu'"):
        hardware()
