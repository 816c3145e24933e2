"""The parts of a model in a folder, looked at before a library loads them: they may be anybody's.

The libraries build whatever a config.json describes, and some of its keys send them to code elsewhere. Here
its values are checked first, and the size of the model that it describes against the files that are there.
"""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from lamp_lightning.models.part_configs import ProcessorConfig
from lamp_lightning.models.tensors import PICKLES, read_pickle, tensor_names
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.reading import check_depth, checked, read_json

FETCH = "Fetch the model again."
LARGEST_JSON = 128 * 2**20  # bytes; the tokenizers of language models have 30 MB
LARGEST_NUMBER = 2**31  # of a config.json
LONGEST_LIST = 10_000
# What a model of our classes never has, and what would send a library to code or kernels of somebody's.
_REFUSED = ("auto_map", "custom_pipelines", "quantization_config", "adapter_config")
_ATTENTION = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
_PLAIN_ATTENTION = (None, "eager", "sdpa", "flash_attention_2", "flex_attention")
_SPARE = 2**30  # bytes that a model may have above what its files can hold


def check_folder(folder: Path, schema: type[BaseModel] | None = None, name: str = "config.json") -> None:
    """Refuse a part's folder with JSON files that no library expects, or pickles that would fill the memory.

    `schema` is what its configuration, the file `name`, must be; None: only what all must be.
    """
    for file in sorted(folder.glob("*.json")):
        if not file.is_file():
            raise UserError(f"{file} is no regular file. {FETCH}")
        value = read_json(file, what="a part of a model", limit=LARGEST_JSON)
        if file.name in (name, "tokenizer_config.json"):
            check_config(value, file, schema if file.name == name else None)
    for file in sorted(folder.iterdir()):
        if file.suffix in PICKLES and file.is_file():
            read_pickle(file)


def check_config(value: Any, file: Path, schema: type[BaseModel] | None) -> None:
    """Refuse a configuration with keys that lead to code, with absurd numbers, or not as `schema` says."""
    if not isinstance(value, dict):
        raise UserError(f"{file} cannot be used as a configuration: it is no JSON object. {FETCH}")
    check_depth(value, file=file, what="a configuration")
    for key, each in _entries(value):
        if key in _REFUSED and each not in (None, {}, []):
            raise UserError(
                f"{file} has {key!r}: code or formats that come with a model are not used here. Give another "
                "model."
            )
        if key in _ATTENTION and each not in _PLAIN_ATTENTION and not isinstance(each, dict):
            raise UserError(f"{file} asks for {key}={each!r}, which is not used here. Remove that key.")
        if isinstance(each, int | float) and abs(each) > LARGEST_NUMBER and key != "model_max_length":
            raise UserError(f"{file}: {key!r} is {each:.3g}, which no model has. {FETCH}")
        if isinstance(each, list) and len(each) > LONGEST_LIST:
            raise UserError(f"{file}: {key!r} has {len(each):,} entries, which no model has. {FETCH}")
    if schema is not None:
        checked(schema, value, file=file, what="a configuration", advice=FETCH)


def check_processor(folder: Path) -> None:
    """Refuse the configuration of an image processor that would blow pictures up; it may be missing."""
    file = folder / "preprocessor_config.json"
    if file.is_file():
        check_config(read_json(file, what="a configuration"), file, ProcessorConfig)


def check_size(folder: Path, cls: Any, config: dict[str, Any], dtype: torch.dtype) -> None:
    """Refuse a configuration of a model far larger than the weights in its folder.

    The library that `cls` is from would make what is missing, in `dtype`, and fill the memory.
    """
    files = [f for f in folder.iterdir() if f.suffix in (".safetensors", *PICKLES) and f.is_file()]
    if not files:
        return  # the library says what is missing
    names = _tensor_count(files)
    for key, value in _entries(config):
        for count in value if isinstance(value, list) else [value]:
            if "layers" in key and isinstance(count, int) and count > max(names, 1):
                raise UserError(
                    f"{folder / 'config.json'}: {key!r} is {count}, but its weights have {names} tensors in "
                    f"all. {FETCH}"
                )
    try:
        with torch.device("meta"):
            if hasattr(cls, "from_config"):
                model = cls.from_config(config)
            else:
                model = cls(cls.config_class.from_dict(config))
    except Exception:
        return  # a configuration that the class cannot take: loading says so in the library's words
    wanted = sum(p.numel() for p in (*model.parameters(), *model.buffers())) * dtype.itemsize
    there = sum(file.stat().st_size for file in files)
    if wanted > 8 * there + _SPARE:
        raise UserError(
            f"{folder / 'config.json'} describes a model of {wanted / 2**30:.1f} GiB, but its weights have "
            f"{there / 2**30:.3f} GiB. {FETCH}"
        )


def _tensor_count(files: list[Path]) -> int:
    """How many tensors the files hold; of files that are not opened here, as many as could be."""
    try:
        return sum(len(tensor_names(file)) if file.suffix == ".safetensors" else 100_000 for file in files)
    except UserError:
        return 100_000  # loading it says why it cannot be read


def lacks_data(error: Exception) -> bool:
    """Whether this is torch's error of a model that a file has left partly without data."""
    return "meta tensor" in str(error)


def library_reason(error: BaseException) -> str:
    """What a library said of a part that it could not load, in one line, without its advice on calling it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, pickle.UnpicklingError):
            return "a weights file is not a plain file of tensors: it is damaged, or would run code."
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(error).split()) or type(error).__name__
    for advice in (" If you want to instead overwrite", " Please load the component before passing"):
        text = text.partition(advice)[0]
    return text[:300]


def check_vocabulary(tokenizer: Any, where: str) -> dict[str, int]:
    """The vocabulary; transformers makes a tokenizer of whatever it finds, also of nothing."""
    vocabulary = tokenizer.get_vocab()
    if len(vocabulary) <= len(tokenizer.all_special_tokens):
        raise UserError(f"{where} has no vocabulary: fetch the model again.")
    return vocabulary


def weights_variant(folder: Path, wanted: str | None) -> str | None:
    """The variant of the weights to load from a part's folder, which may have one only, plain or fp16."""
    names = [file.name for file in folder.glob("*") if file.suffix in (".safetensors", ".bin")]
    if wanted is not None:
        return wanted if any(f".{wanted}." in name for name in names) else None
    return "fp16" if names and all(".fp16." in name for name in names) else None


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without the libraries' progress bars and warnings, which our own checks replace."""
    import diffusers
    import transformers

    libraries = [library.utils.logging for library in (diffusers, transformers)]
    before = [(logging.get_verbosity(), logging.is_progress_bar_enabled()) for logging in libraries]
    for logging in libraries:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for logging, (verbosity, shown) in zip(libraries, before, strict=True):
            logging.set_verbosity(verbosity)
            if shown:
                logging.enable_progress_bar()


def check_tokenizer(tokenizer: Any, words: int, positions: int | None, where: str) -> None:
    """Refuse a tokenizer of another text encoder than one of so many tokens that reads so many positions.

    `positions` is None where texts are cut elsewhere; `where` is the tokenizer's folder, for the message.
    """
    numbers = check_vocabulary(tokenizer, where).values()
    if min(numbers) < 0 or max(numbers) >= words:
        raise UserError(
            f"{where} numbers its words up to {max(numbers):,}, but the text encoder knows {words:,}. {FETCH}"
        )
    longest = tokenizer.model_max_length
    if positions is not None and not (
        isinstance(longest, int | float) and math.isfinite(longest) and 2 <= longest <= positions
    ):
        raise UserError(
            f"{where} makes texts of {longest} tokens, but the text encoder reads {positions}. {FETCH}"
        )


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys and values of nested objects; entries of lists under the key of the list."""
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        key, each = stack.pop()
        if key:
            yield key, each
        if isinstance(each, dict):
            stack += [(str(name), inner) for name, inner in each.items()]
        elif isinstance(each, list):
            stack += [(key, inner) for inner in each if isinstance(inner, dict | list | int | float)]
