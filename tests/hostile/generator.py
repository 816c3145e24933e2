"""The hostile input of a number: one file of the world damaged in one way, and the command that reads it.

`make(seed, index, box)` is the same for the same seed and index on every machine.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from hostile.documents import (
    damage_bytes,
    damage_header,
    damage_json,
    damage_length,
    damage_pickle,
    damage_place,
    damage_tensors,
    damage_yaml,
)
from hostile.media import damage_clip, damage_picture
from hostile.payloads import pickled, prepare, targets
from hostile.values import VALUES, put


@dataclass
class Case:
    """A command on a hostile input.

    Attributes:
        kind: which file is hostile.
        what: how.
        command: module of the package and its words.
        names: of which a message of failure names one.
        writes: folders in which the command may make files.
        changes: files that it may replace.
    """

    kind: str
    command: tuple[str, list[str]]
    names: list[str]
    what: str = ""
    writes: list[Path] = field(default_factory=list)
    changes: list[Path] = field(default_factory=list)


class Box:
    """The places of the world."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.out = root / "work" / "out"
        self.mark = root / "outside" / "mark"  # what code that runs leaves behind
        self.done, self.half, self.edited = root / "runs" / "done", root / "runs" / "half", root / "edited"
        self.sweep, self.samples = root / "sweep", root / "samples"
        self.outside = root / "outside"

    @property
    def record(self) -> Path:
        return self.samples / "photo_a_red_lake_seed0.json"

    @property
    def job(self) -> Path:
        return next(path for path in sorted(self.sweep.iterdir()) if path.is_dir())


Made = tuple[str, Case]


def resume(box: Box, kind: str, *names: str) -> Case:
    """Go on with the unfinished run."""
    run = box.half
    changes = [run / "checkpoints" / "last.ckpt", run / "config.yaml", run / "adapter.safetensors"]
    changes += [run / "metrics.json", run / "contact_sheet.png"]
    return Case(kind, ("train", [f"resume={run}"]), [run.name, *names], writes=[run], changes=changes)


def paint(box: Box, kind: str, *names: str, run: Path | None = None, **words: str) -> Case:
    """Paint with a finished run, or with what ``run`` is."""
    given = {"run": str(run or box.done), "out": str(box.out), "format": "mp4", "threads": "1", **words}
    if "prompts" not in words and "first_frame" not in words and "again" not in words:
        given.setdefault("prompt", "a lake")
    argv = [f"{key}={value}" for key, value in given.items()]
    return Case(kind, ("sample", argv), [str(run or box.done), *names], writes=[box.out])


def again(box: Box, kind: str) -> Case:
    """Make the video of a record again."""
    argv = [f"again={box.record}"]
    names = [box.record.stem, "The setting prompt"]
    return Case(kind, ("sample", argv), names, writes=[box.samples / "again"])


def measure(box: Box, kind: str, *names: str, **words: str) -> Case:
    """Evaluate a run, or a folder."""
    given = {"out": str(box.out), "threads": "1", **words}
    if "folder" not in given:
        given["run"] = str(box.done)
    argv = [f"{key}={value}" for key, value in given.items()]
    return Case(kind, ("evaluate", argv), [box.done.name, *names], writes=[box.out])


def gather(box: Box, kind: str, *names: str) -> Case:
    """Collect the runs into a table."""
    argv = [f"runs={box.done}", f"out={box.out}", "videos=1"]
    return Case(kind, ("collect", argv), [box.done.name, *names], writes=[box.out])


def turn(box: Box, kind: str, *names: str, source: Path | None = None, **words: str) -> Case:
    """Convert a run or an adapter to a checkpoint of the authors', or back."""
    given = {"from": str(source or box.done), "out": str(box.out), **words}
    argv = [f"{key}={value}" for key, value in given.items()]
    return Case(kind, ("convert", argv), [str(source or box.done), *names], writes=[box.out.parent])


def edit_again(box: Box, kind: str, *names: str, new: bool = True) -> Case:
    """Another edit of the edited video, or the rest of the one in its config."""
    run = box.edited
    changes = [run / "config.yaml", run / "adapter.safetensors", run / "checkpoints" / "last.ckpt"]
    argv = [f"run={run}", "prompt=a red lake"] if new else [f"run={run}", "strength=0.5"]
    return Case(kind, ("edit", argv), [run.name, *names], writes=[run], changes=changes)


def tune(box: Box, kind: str, folder: Path, *names: str, **words: str) -> Case:
    """Tune on a folder of clips."""
    given = {
        "motion": "dance",
        "data.folder": str(folder),
        "model.path": str(box.root / "model"),
        "model.clip": str(box.root / "clip"),
        "data.cache_dir": str(box.root / "cache"),
        "data.size": "[32,32]",
        "data.num_frames": "2",
        "data.decode_timeout": "8",
        "sampler.num_inference_steps": "1",
        "trainer.max_steps": "1",
        "samples.every": "null",
        "samples.final": "0",
        "logger": "none",
        "threads": "1",
        "hydra.run.dir": str(box.out),
        **words,
    }
    argv = [f"{key}={value}" for key, value in given.items()]
    return Case(kind, ("train", argv), [str(folder), *names], writes=[box.out])


# -- the kinds -----------------------------------------------------------------------------------------------


def config(rng: random.Random, box: Box) -> Case:
    """The config.yaml of a run."""
    reader = rng.choice([resume, resume, paint, edit_again, measure, gather, turn])
    case = reader(box, "config.yaml", "config.yaml", "dance", "clip_0")
    if reader is edit_again and rng.random() < 0.5:
        case = edit_again(box, "config.yaml", "config.yaml", "clip_0", new=False)
    run = {resume: box.half, edit_again: box.edited}.get(reader, box.done)
    case.what = damage_yaml(rng, run / "config.yaml", box.root, box.mark)
    where = case.what.partition(":")[0].removeprefix("lacks ").removeprefix("unknown ")
    case.names += [where] if "." in where else []  # a setting
    return case


def code(rng: random.Random, box: Box) -> Case:
    """Callables in the config.yaml of a run."""
    prepare(box.outside, box.mark)
    case = rng.choice([resume, resume, resume, edit_again])(box, "_target_", "config.yaml")
    run = box.half if case.command[0] == "train" else box.edited
    settings = yaml.safe_load((run / "config.yaml").read_text())
    name, call = rng.choice(sorted(targets(box.mark, box.outside).items()))
    group = rng.choice(["data", "tuner", "trainer", "logger", "model", "sampler", "samples", "motion"])
    node = settings[group] if isinstance(settings.get(group), dict) else settings.setdefault(group, {})
    how = rng.choice(["instead", "beside", "a field", "a new field", "a list", "deep"])
    if how == "instead":
        settings[group] = call
    elif how == "beside":
        node.update(call)
    elif how == "a field" and node:
        node[rng.choice(sorted(node))] = call
    elif how == "a list":
        node["callbacks"] = [call]
    elif how == "deep":
        node["layers"] = {"a": [{"b": call}]}
    else:
        node["plugins"] = call
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    case.what = f"{name} in {group}, {how}"
    return case


def info(rng: random.Random, box: Box) -> Case:
    """The run.json of a run."""
    reader = rng.choice([resume, paint, edit_again, measure, gather])
    case = reader(box, "run.json", "run.json")
    run = {resume: box.half, edit_again: box.edited}.get(reader, box.done)
    case.what = damage_json(rng, run / "run.json", box.root)
    return case


def sweep(rng: random.Random, box: Box) -> Case:
    """The multirun.yaml of a sweep, or the config of a job in it."""
    file = box.sweep / "multirun.yaml"
    case = Case(
        "multirun.yaml", ("train", [f"resume={box.sweep}"]), ["sweep", "multirun"], writes=[box.sweep]
    )
    case.changes = [box.job / name for name in ("config.yaml", "checkpoints/last.ckpt")] + [file]
    chance = rng.random()
    if chance < 0.25:
        case.what = "job: " + damage_yaml(rng, box.job / "config.yaml", box.root, box.mark)
        case.names.append(box.job.name)
    elif chance < 0.6:
        prepare(box.outside, box.mark)
        settings = yaml.safe_load(file.read_text())
        words = settings["hydra"]["overrides"][rng.choice(["task", "task", "hydra"])]
        name, call = rng.choice(sorted(targets(box.mark, box.outside).items()))
        word = rng.choice(
            [
                f"+data.plugin={_flow(call)}",
                f"data={_flow(call)}",
                f"+trainer.callbacks=[{_flow(call)}]",
                f"tuner._target_={name}",
                f"hydra.sweep.dir={box.outside}/videos",
                f"hydra.run.dir={box.outside}/videos",
                f"hydra.sweep.subdir={box.outside}/videos",
                "hydra.sweep.subdir=../outside/videos",
                f"hydra.launcher._target_={name}",
                "hydra/launcher=joblib",
                f"hydra.searchpath=[file://{box.outside}]",
                f"--config-dir={box.outside}",
                "--config-path=/etc",
                f"hydra.callbacks.evil._target_={name}",
                f"motion.prompt={VALUES['secret']}",
                f"motion.name={VALUES['secret']}",
                f"data.cache_dir={box.outside}/videos",
                "seed=1,2,3,4,5,6,7,8,9,10" + ",11" * 100_000,
                "seed=range(0,1000000000)",
                "threads=1000000",
                "logger=csv",
                "--shell-completion",
                "-m",
                "--help",
                "\0",
            ]
        )
        words.append(word)
        file.write_text(yaml.safe_dump(settings))
        case.what = f"word {word[:80]}"
    else:
        case.what = damage_yaml(rng, file, box.root, box.mark)
    return case


def _flow(call: object) -> str:
    """A mapping in the grammar of Hydra's overrides."""
    if isinstance(call, dict):
        return "{" + ",".join(f"{key}:{_flow(value)}" for key, value in call.items()) + "}"
    if isinstance(call, list):
        return "[" + ",".join(map(_flow, call)) + "]"
    return json.dumps(call) if isinstance(call, str) else str(call)


def adapter(rng: random.Random, box: Box) -> Case:
    """A motion adapter: its header, its tensors, its bytes."""
    file = rng.choice([box.done, box.edited]) / "adapter.safetensors"
    reader = rng.choice(["file", "file", "run", "convert", "edit", "two"])
    if reader == "edit" or (file.parent == box.edited and reader == "run"):
        file = box.edited / "adapter.safetensors"
        case = edit_again(box, "adapter", "adapter.safetensors")
    elif reader == "convert":
        case = turn(box, "adapter", "adapter.safetensors", source=file)
    elif reader == "two":
        case = paint(box, "adapter", "adapter.safetensors")
        case.command[1][0] = f"run=[{box.done}:0.5,{file}:0.5]"
        case.what = "two, "
    else:
        where = file if reader == "file" else box.done
        case = paint(box, "adapter", "adapter.safetensors", run=where)
        file = file if reader == "file" else box.done / "adapter.safetensors"
    chance = rng.random()
    if chance < 0.5:
        case.what += damage_header(rng, file)
    elif chance < 0.72:
        case.what += damage_tensors(rng, file)
    elif chance < 0.8:
        case.what += damage_length(rng, file)
    else:
        case.what += damage_bytes(rng, file) if chance < 0.93 else damage_place(rng, file, box.root)
    return case


def checkpoint(rng: random.Random, box: Box) -> Case:
    """The last.ckpt of an unfinished run."""
    file = box.half / "checkpoints" / "last.ckpt"
    case = resume(box, "checkpoint", "last.ckpt")
    chance = rng.random()
    if chance < 0.65:
        case.what = damage_pickle(rng, file, box.mark)
    else:
        case.what = damage_bytes(rng, file) if chance < 0.92 else damage_place(rng, file, box.root)
    return case


def record(rng: random.Random, box: Box) -> Case:
    """The record of a video, made again, or one that merely lies in the output folder."""
    if rng.random() < 0.7:
        case = again(box, "record")
    elif rng.random() < 0.5:
        case = measure(box, "record", box.record.name, "samples", folder=str(box.samples))
    else:
        case = paint(
            box,
            "record",
            box.record.name,
            out=str(box.samples),
            first_frame=f"{box.root}/pictures/photo.png",
            prompt="a red lake",
        )
        case.writes = [box.samples]
    chance = rng.random()
    if chance < 0.3:
        found = json.loads(box.record.read_text())
        what, (key, value) = rng.choice(
            [
                ("out", ("words", {"out": f"{box.outside}/videos/a_red_lake_seed0.mp4"})),
                ("overwrite", ("words", {"overwrite": True, "out": f"{box.outside}/videos"})),
                (
                    "memory with out",
                    ("made.memory", {"out": f"{box.outside}/videos/x.mp4", "overwrite": True}),
                ),
                ("a batch of 10^9", ("made.batch", 10**9)),
                ("a place of 10^9", ("made.place", 10**9)),
                ("threads", ("made.threads", 10**6)),
                ("a device", ("made.device", "cuda:99")),
                ("10^6 frames", ("sampler.num_frames", 10**6)),
                ("a size of 10^5", ("sampler.size", [10**5, 10**5])),
                ("a secret prompt", ("prompt", VALUES["secret behind a backslash"])),
                ("a secret negative prompt", ("negative_prompt", VALUES["secret"])),
                ("a model of the hub", ("words.base", "somebody/evil")),
                ("another model", ("words.base", f"{box.outside}/remote")),
                ("a painter", ("words.painter", f"{box.outside}/remote")),
                ("formats that lead elsewhere", ("formats", ["../../outside/videos"])),
                ("a run elsewhere", ("words.run", [f"{box.outside}/videos"])),
                ("a seed of 2^64", ("seed", 2**64)),
                ("a seed of 2^40", ("seed", 2**40)),
            ]
        )
        prepare(box.outside, box.mark)
        case.names += ["outside/remote", "outside/videos"]
        case.names += ["somebody/evil"] if value == "somebody/evil" else []
        group, _, name = key.rpartition(".")
        inner = found[group] if group else found
        if isinstance(value, dict) and isinstance(inner.get(name), dict):
            inner[name].update(value)
        else:
            inner[name] = value
        box.record.write_text(json.dumps(found))
        case.what = what
    else:
        case.what = damage_json(rng, box.record, box.root)
    return case


def metrics(rng: random.Random, box: Box) -> Case:
    """The metrics.json of a run, of an evaluation, or a result of a benchmark."""
    case = rng.choice([gather, measure])(box, "metrics.json", "metrics.json", "seed0.json")
    file = box.done / "metrics.json"
    place = rng.choice(["run", "run", "evaluation", "benchmark"])
    if place == "evaluation":
        case = gather(box, "metrics.json", "metrics.json")
        file = box.done / "evaluation" / "metrics.json"
        file.parent.mkdir()
        shutil.copy(box.done / "metrics.json", file)
    elif place == "benchmark":
        run = box.root / "suite" / "runs" / "lamp" / "dance_seed0"
        shutil.copytree(box.done, run)
        file = box.root / "suite" / "results" / "lamp" / "dance_seed0.json"
        file.parent.mkdir(parents=True)
        found = json.loads((run / "metrics.json").read_text())
        judged = {"asked": {"scenes": 1}, "metrics": {"clip_score": 3.0}, "minutes": 1.0}
        file.write_text(json.dumps({**judged, "videos": [{"clip_score": found["clip_score"]}]}))
        case = gather(box, "metrics.json", file.name, run.name)
        case.command[1][0] = f"runs={run}"
    case.what = f"{place}: {damage_json(rng, file, box.root)}"
    return case


def captions(rng: random.Random, box: Box) -> Case:
    """Captions beside clips, or the file that data.captions names."""
    folder = box.root / "clips" / "dance"
    name = rng.choice(["captions.json", "captions.json", "captions.txt", "clip_3.txt"])
    file = folder / name
    if name == "clip_3.txt":
        file.write_text("a red bird")
    else:
        shutil.copy(box.root / name, file)
    words = {}
    if rng.random() < 0.2:
        words["data.captions"] = str(file)
    case = tune(box, "captions", folder, name, **words)
    if name == "captions.json":
        case.what = damage_json(rng, file, box.root)
    elif rng.random() < 0.4:
        what = rng.choice([key for key, value in VALUES.items() if isinstance(value, str)])
        file.write_bytes(VALUES[what].encode("utf-8", "surrogatepass"))
        case.what = what
    else:
        case.what = damage_bytes(rng, file) if rng.random() < 0.7 else damage_place(rng, file, box.root)
    return case


def prompts(rng: random.Random, box: Box) -> Case:
    """Files of prompts."""
    name = rng.choice(["prompts.txt", "prompts.txt", "video_prompts.json", "video_prompts.csv"])
    file = box.root / name
    if name == "prompts.txt" and rng.random() < 0.7:
        case = paint(box, "prompts", name, prompts=str(file))
    else:
        case = measure(box, "prompts", name, folder=f"{box.outside}/videos", prompts=str(file), clip="null")
    if name.endswith("json"):
        case.what = damage_json(rng, file, box.root)
    elif rng.random() < 0.4:
        what = rng.choice([key for key, value in VALUES.items() if isinstance(value, str)])
        file.write_bytes(VALUES[what].encode("utf-8", "surrogatepass"))
        case.what = what
    else:
        case.what = damage_bytes(rng, file) if rng.random() < 0.7 else damage_place(rng, file, box.root)
    return case


def pictures(rng: random.Random, box: Box) -> Case:
    """First frames: a file, or one of a folder."""
    file = (
        box.root
        / "pictures"
        / rng.choice(
            ["photo.png", "photo.png", "photo.jpg", "photo.webp", "photo.gif", "photo.bmp", "photo.tiff"]
        )
    )
    folder = rng.random() < 0.3
    if folder:
        for other in file.parent.iterdir():
            if other not in (file, file.parent / "photo.bmp"):
                other.unlink()
    words = {"first_frame": str(file.parent if folder else file)}
    words |= rng.choice([{}, {"size": "auto"}, {"fit": "pad"}])
    case = paint(box, "picture", file.name, "pictures", **words)
    if rng.random() < 0.15:
        case = edit_again(box, "picture", file.name)
        case.command[1].append(f"first_frame={file}")
    case.what = f"{file.name}: {damage_picture(rng, file, box.root, box.mark)}"
    return case


def clips(rng: random.Random, box: Box) -> Case:
    """Clips to tune on, to edit and to measure."""
    reader = rng.choice(["tune", "tune", "edit", "measure", "collect"])
    if reader == "tune":
        folder = box.root / "clips" / "dance"
        file = folder / "clip_3.mp4"
        case = tune(box, "clip", folder, file.name)
    elif reader == "edit":
        file = box.root / "clips" / "dance" / "clip_3.mp4"
        case = tune(box, "clip", file.parent, file.name)
        kept = (
            "model.",
            "data.size",
            "data.cache",
            "data.dec",
            "data.num",
            "sampler",
            "trainer",
            "logger",
            "threads",
            "hydra",
        )
        words = [word for word in case.command[1] if word.startswith(kept)]
        case.command = ("edit", [f"video={file}", "prompt=a bird", *words])
    elif reader == "measure":
        file = box.outside / "videos" / "a_red_lake_seed0.mp4"
        shutil.copy(file, file.with_name("a_blue_bird.mp4"))
        case = measure(box, "clip", file.name, folder=str(file.parent), clip="null", decode_timeout="8")
    else:
        file = next((box.done / "videos").glob("*.mp4"))
        case = gather(box, "clip", file.name)
    case.what = f"{reader}: {damage_clip(rng, file, box.root)}"
    return case


def clip_model(rng: random.Random, box: Box) -> Case:
    """The folder of a CLIP model."""
    folder = box.root / "clip"
    case = measure(box, "CLIP", "clip", folder=f"{box.outside}/videos", clip=str(folder))
    case.what = _damage_model(rng, folder, folder, box)
    return case


def base_model(rng: random.Random, box: Box) -> Case:
    """The folder of a text-to-image model, below an adapter, for tuning, or as another painter."""
    folder = box.root / "model"
    reader = rng.choice(["base", "base", "tune", "painter", "convert", "config"])
    if reader == "base":
        case = paint(box, "base model", "model", base=str(folder))
    elif reader == "tune":
        case = tune(box, "base model", box.root / "clips" / "dance", "model")
    elif reader == "painter":
        shutil.copytree(folder, box.root / "painter")
        folder = box.root / "painter"
        case = paint(box, "base model", "painter", painter=str(folder))
    elif reader == "config":
        shutil.copytree(folder, box.root / "configuration")
        folder = box.root / "configuration"
        single = f"{box.root}/single.safetensors"
        case = paint(box, "base model", "configuration", base=single, base_config=str(folder))
    else:
        case = turn(box, "base model", "model", base=str(folder))
    parts = ["unet", "vae", "text_encoder", "tokenizer", "scheduler", "unet", "vae", "."]
    case.what = f"{reader}, {_damage_model(rng, folder / rng.choice(parts), folder, box)}"
    return case


def _damage_model(rng: random.Random, part: Path, folder: Path, box: Box) -> str:
    """One file of a part of a model; or code beside it, which an index or a configuration names."""
    files = sorted(file for file in part.iterdir() if file.is_file())
    weights = [file for file in files if file.suffix == ".safetensors"]
    chance = rng.random()
    if chance < 0.1:
        name = rng.choice(["code.py", "my_code.py", f"{part.name}.py"])
        (part / name).write_text(f"open({str(box.mark)!r}, 'w').close()\nclass Net: pass\n")
        auto = {"auto_map": {"AutoModel": "my_code.Net", "AutoConfig": "my_code.Net"}, "model_type": "evil"}
        for file in files:
            if file.suffix == ".json" and file.name != "vocab.json":
                value = json.loads(file.read_text())
                if isinstance(value, dict):
                    file.write_text(json.dumps({**value, **auto, "_class_name": "Net"}))
        index = folder / "model_index.json"
        if index.is_file() and part != folder:
            named = json.loads(index.read_text())
            named[part.name] = [name.removesuffix(".py"), "Net"]
            index.write_text(json.dumps(named))
        return f"{part.name}: code that comes with it"
    if chance < 0.25 and weights:
        pickle = weights[0].with_name(
            {"model": "pytorch_model"}.get(weights[0].stem, weights[0].stem) + ".bin"
        )
        import torch
        from safetensors.torch import load_file

        torch.save(load_file(weights[0]), pickle)
        weights[0].unlink()
        if rng.random() < 0.3:
            pickle.write_bytes(pickled(box.mark))
            return f"{part.name}: a pickle with code"
        return f"{part.name}: {damage_pickle(rng, pickle, box.mark)}"
    file = rng.choice(files)
    where = f"{part.name}/{file.name}"
    if file.suffix == ".json":
        return f"{where}: {damage_json(rng, file, box.root)}"
    if file.suffix == ".safetensors" and rng.random() < 0.6:
        if rng.random() < 0.7:
            return f"{where}: {damage_tensors(rng, file)}"
        return f"{where}: {damage_length(rng, file)}"
    return f"{where}: {damage_bytes(rng, file) if rng.random() < 0.7 else damage_place(rng, file, box.root)}"


def single(rng: random.Random, box: Box) -> Case:
    """A base model in a single file."""
    file = box.root / rng.choice(["single.safetensors", "single.ckpt"])
    case = paint(box, "single file", file.name, base=str(file), base_config=f"{box.root}/model")
    if rng.random() < 0.25:
        case = paint(box, "single file", file.name, painter=str(file), painter_config=f"{box.root}/model")
    chance = rng.random()
    if file.suffix == ".ckpt" and chance < 0.6:
        case.what = damage_pickle(rng, file, box.mark)
    elif chance < 0.4:
        case.what = damage_tensors(rng, file)
    elif chance < 0.55:
        case.what = damage_length(rng, file) if file.suffix == ".safetensors" else damage_bytes(rng, file)
    else:
        case.what = damage_bytes(rng, file) if chance < 0.9 else damage_place(rng, file, box.root)
    case.what = f"{file.suffix}: {case.what}"
    return case


def official(rng: random.Random, box: Box) -> Case:
    """A checkpoint folder as the authors' code saves it."""
    import torch

    from lamp_lightning import MotionUNet

    folder = box.root / "official"
    torch.manual_seed(0)
    unet = MotionUNet.from_pretrained(box.root / "model", subfolder="unet")
    unet.load_motion(box.done / "adapter.safetensors", check_base=False)
    unet.save_official(folder)
    case = turn(box, "authors' checkpoint", "official", source=folder, out=f"{box.out}/a.safetensors")
    case.writes = [box.out.parent]
    case.what = _damage_model(rng, folder, folder, box)
    return case


def references(rng: random.Random, box: Box) -> Case:
    """Folders that an evaluation compares with."""
    which = rng.choice(["truth", "first_frames", "reference"])
    folder = box.root / which
    shutil.copytree(box.outside / "videos", folder)
    file = folder / "a_red_lake_seed0.mp4"
    words = {"folder": f"{box.outside}/videos", "clip": "null", "decode_timeout": "8", which: str(folder)}
    case = measure(box, "folders to compare with", which, **words)
    if which == "first_frames":
        file.unlink()
        file = file.with_suffix(".png")
        shutil.copy(box.root / "pictures" / "photo.png", file)
        case.what = damage_picture(rng, file, box.root, box.mark)
    else:
        case.what = damage_clip(rng, file, box.root)
    case.what = f"{which}: {case.what}"
    return case


def kept(rng: random.Random, box: Box) -> Case:
    """Files of the cache, and the inversion of an edit."""
    files = sorted(file for file in (box.root / "cache").rglob("*") if file.is_file())
    if rng.random() < 0.25:
        file = next((box.edited / "inversion").glob("*.safetensors"))
        case = edit_again(box, "cache", file.name)
        case.changes.append(file)
    else:
        file = rng.choice(files)
        case = tune(box, "cache", box.root / "clips" / "dance", file.name, "cache")
    if file.suffix == ".safetensors" and rng.random() < 0.5:
        case.what = damage_tensors(rng, file)
    elif file.suffix == ".json" and rng.random() < 0.7:
        case.what = damage_json(rng, file, box.root)
    else:
        case.what = damage_bytes(rng, file) if rng.random() < 0.8 else damage_place(rng, file, box.root)
    case.what = f"{file.suffix}: {case.what}"
    return case


NAMES = {
    "no UTF-8": b"ph\xe9t\xff",
    "a line break": b"ph\nt",
    "an escape sequence": b"ph\x1b[2Jt",
    "a secret": VALUES["secret"].encode(),
    "signs of the grammar": b"a,b=[c]{d}:'e\"f",
    "long": b"p" * 240,
    "a dash": b"-p",
    "a backslash": b"a\\b",
    "half a pair": "\ud83d".encode("utf-8", "surrogatepass"),
    "spaces": b"  ",
    "another direction": "a\u202egnp".encode(),
}


def names(rng: random.Random, box: Box) -> Case:
    """Files with names that are hard to print, or no text at all."""
    what = rng.choice(list(NAMES))
    name = os.fsdecode(NAMES[what])
    where = rng.choice(["picture", "pictures", "clip", "prompts", "run", "videos", "out", "adapter"])
    if where in ("picture", "pictures"):
        file = box.root / "pictures" / f"{name}.png"
        (box.root / "pictures" / "photo.png").rename(file)
        case = paint(box, "name", "first_frame", first_frame=str(file if where == "picture" else file.parent))
    elif where == "clip":
        file = box.root / "clips" / "dance" / f"{name}.mp4"
        (file.parent / "clip_3.mp4").rename(file)
        case = tune(box, "name", file.parent, "data.folder")
    elif where == "prompts":
        file = box.root / f"{name}.txt"
        (box.root / "prompts.txt").rename(file)
        case = paint(box, "name", "prompts", prompts=str(file))
    elif where == "run":
        file = box.root / "runs" / name
        box.done.rename(file)
        case = rng.choice([gather, measure, paint])(box, "name", "run")
        key = "runs" if case.command[0] == "collect" else "run"
        case.command = (case.command[0], [w for w in case.command[1] if not w.startswith(f"{key}=")])
        case.command[1].append(f"{key}={file}")
    elif where == "videos":
        file = box.outside / "videos" / f"{name}.mp4"
        (file.parent / "a_red_lake_seed0.mp4").rename(file)
        case = measure(box, "name", "folder", folder=str(file.parent), clip="null")
    elif where == "adapter":
        file = box.root / f"{name}.safetensors"
        shutil.copy(box.done / "adapter.safetensors", file)
        case = paint(box, "name", "run", run=file)
    else:
        case = paint(box, "name", "out", out=str(box.out / name))
    case.names.append("cannot be read as <setting>=<value>")
    case.names.append("Error")
    case.what = f"{where}: {what}"
    return case


def links(rng: random.Random, box: Box) -> Case:
    """Folders in which a command writes, that lead elsewhere."""
    place, case = rng.choice(
        [
            (box.half / "videos", resume(box, "link")),
            (box.half / "checkpoints", resume(box, "link", "checkpoints")),
            (box.half / "samples", resume(box, "link")),
            (box.half / "metrics.json", resume(box, "link")),
            (box.half / "adapter.safetensors", resume(box, "link")),
            (box.half / "contact_sheet.png", resume(box, "link")),
            (box.edited / "videos", edit_again(box, "link")),
            (box.edited / "inversion", edit_again(box, "link")),
            (box.done / "samples", paint(box, "link", out="null")),
            (box.done / "evaluation", measure(box, "link", out="null")),
            (box.samples / "again", again(box, "link")),
            (box.sweep / "0" / "videos", Case("link", ("train", [f"resume={box.sweep}"]), ["sweep"])),
        ]
    )
    case.names += [place.name, "link"]
    if place.parent == box.sweep / "0":
        place = box.job / "videos"
        case.writes = [box.sweep]
        case.changes = [box.job / "checkpoints" / "last.ckpt", box.sweep / "multirun.yaml"]
    if case.command[1][0].startswith("run=") and case.command[0] in ("sample", "evaluate"):
        case.writes = [box.done]
    if place.is_dir():
        shutil.rmtree(place) if place.name != "checkpoints" else place.rename(box.outside / "checkpoints")
    target = box.outside / ("checkpoints" if place.name == "checkpoints" else "videos")
    if place.suffix:
        put(place, box.root, rng.choice(["a link elsewhere", "a pipe", "a folder"]))
    else:
        place.symlink_to(target)
    case.what = f"{place.parent.name}/{place.name}"
    return case


KINDS: dict[Callable[[random.Random, Box], Case], int] = {
    config: 15,
    code: 12,
    info: 3,
    sweep: 7,
    adapter: 11,
    checkpoint: 9,
    record: 9,
    metrics: 5,
    captions: 4,
    prompts: 4,
    pictures: 7,
    clips: 6,
    clip_model: 4,
    base_model: 8,
    single: 3,
    official: 3,
    references: 2,
    kept: 2,
    names: 3,
    links: 2,
}


def make(seed: int, index: int, root: Path) -> Case:
    """Put the hostile input of that number into the world at ``root``; returns what to run on it."""
    rng = random.Random(f"{seed}/{index}")
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    return kind(rng, Box(root))
