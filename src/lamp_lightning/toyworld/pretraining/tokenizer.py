"""A small, real CLIP tokenizer: byte-level BPE whose merges make whole words of the toy world's captions."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from lamp_lightning.toyworld.scenes import COLOURS, combinations, motion_name

MAX_TOKENS = 32


def build_tokenizer() -> CLIPTokenizer:
    """Train the merges on every caption of the toy world. Any other text still has tokens, byte by byte."""
    byte_letters = pre_tokenizers.ByteLevel.alphabet()
    corpus = [scene.caption for scene in combinations()]
    corpus += [motion_name(scene.motion) for scene in combinations()]
    corpus += [f"something {colour}, the place" for colour in COLOURS] * 50
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=4096, min_frequency=1, end_of_word_suffix="</w>", initial_alphabet=byte_letters
    )
    bpe.train_from_iterator(corpus, trainer)
    learned = json.loads(bpe.to_str())["model"]
    merges = [tuple(pair) for pair in learned["merges"]]
    letters = sorted(byte_letters)
    tokens = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:  # the files of a CLIP tokenizer, read as any other's
        vocab, merge_file = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocab.write_text(json.dumps({token: k for k, token in enumerate(tokens)}), encoding="utf-8")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
        merge_file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        config = {"model_max_length": MAX_TOKENS, "tokenizer_class": "CLIPTokenizer"}
        Path(folder, "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder)
