"""The sizes of the public models, and docs/models.md: that what it says is what the code takes."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from lamp_lightning.models.registry import inflated

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import memory
import stable_diffusion

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "image", "everything", "tuned", "low"),
    [
        # the first three are the authors' numbers
        ("sd14", 859_520_964, 1_101_091_358, 253_935_834, 6_342_874),
        ("sd21", 865_910_724, 1_107_481_118, 253_935_834, 6_342_874),
        ("sdxl", 2_567_463_684, 3_095_364_623, 630_134_539, 16_307_979),
        ("sana", 1_604_462_752, 2_307_509_172, 803_308_820, 10_528_020),
        ("sd35", 2_243_171_520, 2_640_012_504, 484_118_040, 9_358_872),
    ],
)
def test_parameter_counts_and_sizes_of_files(
    name: str, image: int, everything: int, tuned: int, low: int
) -> None:
    """Files are in half precision: 510 MB at most of Stable Diffusion 1.5, and 50 MB at rank 16."""
    unet = memory.on_meta(stable_diffusion.unet, name)
    assert sum(p.numel() for p in unet.parameters()) == image
    motion = inflated(unet, None)
    assert sum(p.numel() for p in motion.parameters()) == everything
    assert sum(p.numel() for p in motion.tuned_parameters()) == tuned
    assert memory.stored(motion, None) == tuned
    assert memory.stored(motion, 16) == low
    assert 2 * low < 50e6
    assert 2 * tuned < {"sd14": 510e6, "sd21": 510e6}.get(name, 1.7e9)
    assert f"| {everything:,} | {tuned:,} | {2 * tuned / 1e6:,.0f} MB | " in PAGE
    assert f" MB | {2 * low / 1e6:,.0f} MB | " in PAGE


def test_parameter_counts_of_what_stands_around_the_unet() -> None:
    counts = {"sd14": 123_060_480, "sd21": 340_387_840, "sdxl": 817_720_320}
    for name, wanted in counts.items():
        encoders = memory.on_meta(stable_diffusion.text_encoders, name)
        assert sum(p.numel() for encoder in encoders for p in encoder.parameters()) == wanted
        vae = memory.on_meta(stable_diffusion.autoencoder, name)
        assert sum(p.numel() for p in vae.parameters()) == 83_653_863


def small_unet(width: int = 32, levels: int = 2) -> UNet2DConditionModel:
    """All kinds of layers of Stable Diffusion in two levels, or all but the resamplers in one; on meta."""
    with torch.device("meta"):
        return UNet2DConditionModel(
            block_out_channels=(width, 2 * width)[:levels],
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D")[:levels],
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")[-levels:],
            layers_per_block=1,
            cross_attention_dim=32,
            attention_head_dim=4,
            norm_num_groups=8,
        )


@pytest.mark.parametrize(("dtype", "checkpointing"), [(torch.float32, False), (torch.bfloat16, True)])
def test_tensors_without_contents_count_as_real_ones(dtype: torch.dtype, checkpointing: bool) -> None:
    options = {"frames": 3, "dtype": dtype, "checkpointing": checkpointing}
    calculated = memory.training(small_unet(), (64, 64), **options)
    real = memory.training(small_unet(), (64, 64), world=nullcontext(), **options)
    for part in ("frozen", "tuned", "gradients", "optimizer"):
        assert getattr(calculated, part) == getattr(real, part)
    # The backward pass may free gradients' intermediates in another order: a few hundred numbers.
    assert calculated.rest == pytest.approx(real.rest, rel=0.005)


@pytest.mark.slow
def test_each_way_to_save_memory_saves_where_it_should() -> None:
    plain, light, sparing, eight_bit = (
        memory.training(small_unet(128, levels=1), (128, 128), **options)
        for options in ({}, {"dtype": torch.bfloat16}, {"checkpointing": True}, {"optimizer": "adamw8bit"})
    )
    assert 2 * light.frozen == pytest.approx(plain.frozen, rel=0.01)
    assert light.tuned == plain.tuned
    assert light.rest < plain.rest
    assert sparing.rest < plain.rest / 2
    assert eight_bit.rest == plain.rest
    assert plain.optimizer / 4 < eight_bit.optimizer < plain.optimizer / 3


@pytest.mark.slow
def test_activations_grow_with_pixels_and_frames() -> None:
    """Attention that wrote its scores down would grow with their square."""

    def rest(frames: int, width: int) -> int:
        return memory.training(small_unet(levels=1), (128, width), frames=frames).rest

    small, wide, wider, long, longer = rest(8, 128), rest(8, 256), rest(8, 512), rest(16, 128), rest(32, 128)
    assert wider - wide == pytest.approx(2 * (wide - small), rel=0.02)
    assert longer - long == pytest.approx(2 * (long - small), rel=0.02)


@pytest.mark.slow
def test_the_page_says_what_the_authors_recipe_takes() -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith("| `(as it comes)`"))
    stated = float(row.split("|")[5])
    found = memory.training(memory.on_meta(stable_diffusion.unet, "sd14"), (320, 512))
    assert found.total / memory.GIB == pytest.approx(stated, rel=0.02)


def test_what_a_card_holds() -> None:
    assert memory.fits(6.6 * memory.GIB) == 8
    assert memory.fits(7.9 * memory.GIB) == 12
    assert memory.fits(22.5 * memory.GIB) is None
