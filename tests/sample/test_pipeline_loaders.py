"""A style is loaded as into any diffusers pipeline: it changes the picture and leaves the motion."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from lamp_lightning import LAMPPipeline, UserError
from lamp_lightning.models.base.prompts import tokenize
from lora_files import PICTURE, ip_adapter, lora
from random_models import save_single_file

# Matched histograms have steps, which make much of rounding.
FEW = {
    "num_frames": 3, "num_inference_steps": 2, "paint_steps": 1, "seed": 0, "histogram_matching": False,
}  # fmt: skip
FIRST = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1))


def load(base, **kwargs):
    pipeline = LAMPPipeline.from_pretrained(base, **kwargs)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generated(pipeline, prompt="a red bird", first=FIRST, **kwargs):
    return np.asarray(pipeline(prompt, first, **FEW, **kwargs).frames)


def close(a, b):
    return np.allclose(a, b, atol=1e-4)


@pytest.fixture(scope="module")
def motion(random_base, tmp_path_factory):
    """An adapter of random tuned weights."""
    unet = load(random_base).unet
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in unet.tuned_parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    file = tmp_path_factory.mktemp("motion") / "motion.safetensors"
    unet.save_motion(file, motion="rain")
    return file


def test_a_style_lora_under_a_motion(random_base, motion, tmp_path):
    save_file(lora(), tmp_path / "style.safetensors")
    pipeline, other = load(random_base), load(random_base)
    still = generated(pipeline)
    pipeline.load_motion(motion)
    moving = generated(pipeline)
    pipeline.load_lora_weights(tmp_path, weight_name="style.safetensors", adapter_name="style")
    other.load_lora_weights(lora(), adapter_name="style")
    other.load_motion(motion)
    styled = generated(pipeline)
    assert np.array_equal(styled, generated(other))
    assert np.array_equal(styled[:, 0], moving[:, 0])  # the given first frame
    assert not close(styled, moving)
    assert close(generated(pipeline, cross_attention_kwargs={"scale": 0.0}), moving)
    pipeline.set_adapters(["style"], [0.5])
    half = generated(pipeline)
    assert not close(half, styled)
    pipeline.fuse_lora()
    assert close(generated(pipeline), half)
    pipeline.load_motion(motion)
    assert close(generated(pipeline), half)
    with pytest.raises(UserError, match="unfuse_lora"):
        pipeline.unload_lora_weights()
    pipeline.unfuse_lora()
    pipeline.disable_lora()
    assert close(generated(pipeline), moving)
    pipeline.unload_lora_weights()
    assert close(generated(pipeline), moving)
    other.unload_motion()
    other.unload_lora_weights()
    assert np.array_equal(generated(other), still)


def test_a_lora_without_peft_names_the_package(random_base, monkeypatch):
    monkeypatch.setattr("lamp_lightning.sample.loaders.USE_PEFT_BACKEND", False)
    with pytest.raises(UserError, match="pip install 'peft"):
        load(random_base).load_lora_weights(lora())


def test_textual_inversions_of_one_and_of_several_vectors(random_base, motion):
    pipeline = load(random_base)
    pipeline.load_motion(motion)
    plain = generated(pipeline, "a <style> bird")
    width = pipeline.text_encoder.config.hidden_size
    vectors = torch.randn(2, width, generator=torch.Generator().manual_seed(2))
    pipeline.load_textual_inversion({"<style>": vectors}, token="<style>")
    pipeline.load_textual_inversion({"<one>": vectors[0]}, token="<one>")
    both = generated(pipeline, "a <style> bird")
    assert not close(both, plain)
    ids = tokenize(pipeline.tokenizer, ["a <style> bird"]).input_ids[0].tolist()
    wanted = pipeline.tokenizer.convert_tokens_to_ids(["<style>", "<style>_1"])
    assert wanted == [number for number in ids if number in wanted]  # both vectors, in their order
    assert not close(generated(pipeline, "a <one> bird"), both)
    pipeline.unload_textual_inversion()
    assert close(generated(pipeline, "a <style> bird"), plain)


def test_an_ip_adapter_looks_at_a_picture(random_base, motion, tmp_path):
    pipeline = load(random_base)
    pipeline.load_motion(motion)
    moving = generated(pipeline)
    with pytest.raises(UserError, match="load_ip_adapter"):
        generated(pipeline, ip_adapter_image=Image.new("RGB", (32, 32)))
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        image_size=32, patch_size=16, projection_dim=PICTURE,
    )  # fmt: skip
    torch.manual_seed(6)
    pipeline.register_modules(
        image_encoder=CLIPVisionModelWithProjection(config).eval(),
        feature_extractor=CLIPImageProcessor(size=32, crop_size=32),
    )
    parts = ip_adapter(pipeline.unet)
    tensors = {f"{part}.{name}": x for part in parts for name, x in parts[part].items()}
    save_file(tensors, tmp_path / "ip_adapter.safetensors")
    pipeline.load_ip_adapter(str(tmp_path), subfolder="", weight_name="ip_adapter.safetensors")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    with pytest.raises(UserError, match="ip_adapter_image"):
        generated(pipeline)
    seen = generated(pipeline, ip_adapter_image=picture)
    assert not close(seen, moving)
    embeds = pipeline.prepare_ip_adapter_image_embeds(picture, None, "cpu", 1, True)
    assert close(generated(pipeline, ip_adapter_image_embeds=embeds), seen)
    unguided = [x[1:] for x in embeds]
    assert generated(pipeline, ip_adapter_image_embeds=unguided, guidance_scale=1.0).shape == seen.shape
    assert generated(pipeline, ["a", "b"], None, ip_adapter_image=picture).shape == (2, *seen.shape[1:])
    pipeline.load_motion(motion)
    assert close(generated(pipeline, ip_adapter_image=picture), seen)
    pipeline.set_ip_adapter_scale(0.0)
    assert close(generated(pipeline, ip_adapter_image=picture), moving)
    pipeline.unload_ip_adapter()
    assert close(generated(pipeline), moving)


def test_freeu_works_and_free_init_says_what_to_do_instead(random_base):
    pipeline = load(random_base)
    plain = generated(pipeline)
    pipeline.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    assert not close(generated(pipeline), plain)
    pipeline.disable_freeu()
    assert np.array_equal(generated(pipeline), plain)
    with pytest.raises(UserError, match="shared_noise"):
        pipeline.enable_free_init()


def test_a_pipeline_from_a_single_file(random_base, tmp_path):
    file = save_single_file(random_base, tmp_path / "model.safetensors")
    pipeline = LAMPPipeline.from_single_file(file, config=str(random_base))
    pipeline.set_progress_bar_config(disable=True)
    assert close(generated(pipeline), generated(load(random_base)))
    with pytest.raises(UserError, match="fetch it first"):
        LAMPPipeline.from_single_file("https://huggingface.co/a/b/blob/main/model.safetensors")


def test_sdxl_takes_a_lora_for_its_second_text_encoder(random_model):
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipeline = load(random_model("sdxl"))
    plain = generated(pipeline)
    donor = load(random_model("sdxl")).text_encoder_2
    donor.add_adapter(LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights="gaussian"))
    torch.manual_seed(0)
    for name, parameter in donor.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    weights = {f"text_encoder_2.{n}": x for n, x in get_peft_model_state_dict(donor).items()}
    pipeline.load_lora_weights(weights, adapter_name="words")
    assert not close(generated(pipeline), plain)
    pipeline.unload_lora_weights()
    assert close(generated(pipeline), plain)
