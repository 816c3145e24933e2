"""What commands say, in the words of the page: there one presses buttons, and types no settings."""

from __future__ import annotations

import re
from pathlib import Path

# Settings and commands in messages, as the page calls them.
_WORDS = (
    (r"data\.fps=(\d+(?:\.\d+)?)", r"Frames per second: \1"),
    (r"data\.num_frames=(\d+)", r"Frames of a video: \1"),
    (r"trainer\.max_steps=(\d+)", r"Steps: \1"),
    (r"Stable Diffusion \(model=[\w.]+ trainer=gpu\)", "Stable Diffusion, by Model above"),
    (r"model=[\w.]+ trainer=gpu", "Stable Diffusion, by Model above"),
    (r" \(inspect\)", ""),
    (r" \(ffmpeg [^)]*\)", " with a video editor"),
    (r"Try data\.batch_size=1.*?data\.size\.", "Take fewer frames of a video, or a smaller model."),
    (r"begin a new run with .*", "tune again with other clips."),
    (r"trainer=gpu: ", ""),
    (r"Leave it out, or take trainer=cpu\.", "Choose the tiny model above, or a computer with a GPU."),
    (r"Check the id \(and model\.variant\) and the network, or .*", "Check the network, and press Go on."),
)
_SETTING = (
    r"(?<![\w./])(?:(?:callbacks|data|hydra|logger|model|motion|sampler|samples|trainer|tuner)"
    r"\.(?!mp4|m4v|mov|avi|mkv|webm|gif|webp|png|jpe?g|txt|json|csv|safetensors|ckpt|yaml|log)[a-z]\w*"
    r"|[a-z]\w*=[^\s=])"
)
_COMMAND = re.compile(rf"{_SETTING}|python\S* -m |pip install|\bffmpeg\b|\bgit clone\b")


def for_page(text: str, folder: Path) -> str:
    """A message of a command without the paths of `folder`, and without what nobody can type here.

    Sentences that name settings or commands which the page does not have are left out.

    Example:
        >>> said = "/home/ann/tea/1.mp4: it has 4 frames. Take data.num_frames=4. Or sampler.window=8."
        >>> for_page(said, Path("/home/ann/tea"))
        '1.mp4: it has 4 frames. Take Frames of a video: 4.'
    """
    text = text.replace(f"{folder}/", "").replace(str(folder), folder.name)
    for found, words in _WORDS:
        text = re.sub(found, words, text)
    lines = [_without_commands(line) for line in text.splitlines()]
    return "\n".join(line for line in lines if line.strip())


def _without_commands(line: str) -> str:
    """A line without the sentences, and the ends of sentences, that name settings or commands."""
    kept = []
    for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", line):
        if not _COMMAND.search(sentence):
            kept.append(sentence)
            continue
        parts = re.split(r"(?<=[:;])\s+", sentence)
        good = []
        for part in parts:
            if _COMMAND.search(part):
                break
            good.append(part)
        if good:
            kept.append(" ".join(good).rstrip(":;") + ".")
    return " ".join(kept)
