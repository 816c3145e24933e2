"""Code in the place of settings: callables that leave a mark, and pickles that run a command."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any


def targets(mark: Path, outside: Path) -> dict[str, Any]:
    """Settings with a `_target_` that would create the file ``mark``, or spoil what lies ``outside``."""
    evil, text = str(outside / "evil.pt"), str(mark)
    path = {"_target_": "pathlib.Path", "_args_": [text]}
    spawn = ["touch", text]
    called = {
        "os.system": {"_args_": [f"touch {text}"]},
        "builtins.exec": {"_args_": [f"open({text!r}, 'w')"]},
        "builtins.eval": {"_args_": [f"open({text!r}, 'w')"]},
        "builtins.open": {"_args_": [text, "w"]},
        "io.open": {"_args_": [str(outside / "canary.txt"), "w"]},
        "pathlib.Path.write_text": {"_args_": [path, "x"]},
        "pathlib.Path.touch": {"_args_": [path]},
        "pathlib.Path.unlink": {"_args_": [{**path, "_args_": [f"{outside}/canary.txt"]}]},
        "subprocess.run": {"_args_": [spawn]},
        "subprocess.Popen": {"_args_": [spawn]},
        "subprocess.getoutput": {"_args_": [f"touch {text}"]},
        "os.popen": {"_args_": [f"touch {text}"]},
        "os.posix_spawn": {"_args_": ["/bin/touch", spawn, {}]},
        "os.mkdir": {"_args_": [text]},
        "asyncio.create_subprocess_shell": {"_args_": [f"touch {text}"]},
        "distutils.spawn.spawn": {"_args_": [spawn]},
        "setuptools._distutils.spawn.spawn": {"_args_": [spawn]},
        "shutil.rmtree": {"_args_": [str(outside / "videos")]},
        "shutil.copyfile": {"_args_": [str(outside / "canary.txt"), text]},
        "shutil.move": {"_args_": [str(outside / "canary.txt"), text]},
        "torch.load": {"f": evil, "weights_only": False},
        "torch.save": {"obj": 1, "f": text},
        "torch.hub.load": {"repo_or_dir": str(outside / "hub"), "model": "evil", "source": "local"},
        "torch.hub.load_state_dict_from_url": {"url": f"file://{evil}", "weights_only": False},
        "numpy.load": {"file": str(outside / "evil.npy"), "allow_pickle": True},
        "numpy.save": {"file": text, "arr": 1},
        "pickle.load": {"_args_": [{"_target_": "builtins.open", "_args_": [evil, "rb"]}]},
        "joblib.load": {"filename": str(outside / "evil.pkl")},
        "pandas.read_pickle": {"filepath_or_buffer": str(outside / "evil.pkl")},
        "transformers.AutoModel.from_pretrained": {
            "_args_": [str(outside / "remote")], "trust_remote_code": True,
        },
        "transformers.AutoConfig.from_pretrained": {
            "_args_": [str(outside / "remote")], "trust_remote_code": True,
        },
        "runpy.run_path": {"path_name": str(outside / "hub" / "hubconf.py")},
        "importlib.import_module": {"_args_": ["antigravity"]},
        "logging.FileHandler": {"filename": text},
        "lamp_lightning.data.decoder_process.ClipDecoder": {"command": spawn},
        "lamp_lightning.runtime.runs.write_text": {"_args_": [path, "x"]},
        "lamp_lightning.runtime.files.write_text": {"_args_": [path, "x"]},
        "lightning.pytorch.loggers.CSVLogger": {"save_dir": str(outside / "videos")},
        "lightning.pytorch.callbacks.ModelCheckpoint": {"dirpath": text},
        "hydra.utils.call": {"config": {"_target_": "os.system", "_args_": [f"touch {text}"]}},
        "functools.reduce": {"_args_": [{"_target_": "hydra.utils.get_method", "path": "os.system"}, spawn]},
    }  # fmt: skip
    return {name: {"_target_": name, **arguments} for name, arguments in called.items()}


def prepare(outside: Path, mark: Path) -> None:
    """What the targets load: pickles, a folder for torch.hub, and a model that comes with code."""
    run = pickled(mark)
    for name in ("evil.pt", "evil.pkl"):
        (outside / name).write_bytes(run)
    (outside / "evil.npy").write_bytes(b"\x93NUMPY\x01\x00" + _npy_header() + run)
    code = f"open({str(mark)!r}, 'w').close()\n"
    (outside / "hub").mkdir(exist_ok=True)
    (outside / "hub" / "hubconf.py").write_text(f"{code}def evil(*args, **kwargs):\n    {code}")
    (outside / "remote").mkdir(exist_ok=True)
    (outside / "remote" / "code.py").write_text(f"{code}class Config: pass\n")
    auto = '{"auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}, "model_type": "evil"}'
    (outside / "remote" / "config.json").write_text(auto)


def _npy_header() -> bytes:
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    header += b" " * ((64 - (10 + len(header) + 1) % 64) % 64) + b"\n"
    return len(header).to_bytes(2, "little") + header


class _Command:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def pickled(mark: Path) -> bytes:
    """A pickle that runs a command."""
    return pickle.dumps({"state_dict": _Command(mark)}, protocol=2)
