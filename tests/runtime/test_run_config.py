"""The config of a run, and the overrides of a sweep, are data: nothing in them is called or interpolated."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from conftest import full_config
from lamp_lightning.edit import __main__ as edit
from lamp_lightning.runtime.command_settings import Train
from lamp_lightning.runtime.config import composed
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.reading import literal, read_yaml
from lamp_lightning.runtime.run_config import TARGETS, read_config
from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.runtime.schema import fields_of
from lamp_lightning.runtime.sweeps import changed_settings, words_of
from lamp_lightning.sample import __main__ as sample
from lamp_lightning.train import __main__ as train

# Ways to run code or to overwrite a file that Hydra's own list of forbidden functions lets through.
CODE = {
    "os.system": {"command": "touch ran"},
    "builtins.exec": {"source": "open('ran', 'w')"},
    "builtins.open": {"file": "ran", "mode": "w"},
    "pathlib.Path.write_text": {"self": "ran", "data": ""},
    "subprocess.Popen": {"args": ["touch", "ran"]},
    "asyncio.create_subprocess_shell": {"cmd": "touch ran"},
    "torch.load": {"f": "evil.pt", "weights_only": False},
    "torch.hub.load": {"repo_or_dir": ".", "model": "evil", "source": "local"},
    "numpy.load": {"file": "evil.npy", "allow_pickle": True},
    "transformers.AutoModel.from_pretrained": {
        "pretrained_model_name_or_path": ".",
        "trust_remote_code": True,
    },
    "lamp_lightning.data.decoder_process.ClipDecoder": {"command": ["touch", "ran"]},
    "shutil.rmtree": {"path": "kept"},
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run that has just begun."""
    monkeypatch.chdir(tmp_path)
    Path("kept").mkdir()
    return RunFolder.create(tmp_path / "run", full_config())


def change(run: RunFolder, name: str, value: object) -> dict:
    """Write another value into the run's config.yaml."""
    values = yaml.safe_load(run.config_file.read_text())
    node = values
    *groups, last = name.split(".")
    for group in groups:
        node = node.setdefault(group, {})
    node[last] = value
    run.config_file.write_text(yaml.safe_dump(values))
    return values


def refused(capsys: pytest.CaptureFixture[str], main, *words: str) -> str:
    assert main(list(words)) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("Error: ")
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize("target", CODE)
@pytest.mark.parametrize("group", TARGETS)
def test_a_run_never_calls_code_that_its_config_names(run, capsys, tmp_path, group, target):
    change(run, group, {"_target_": target, **CODE[target]})
    message = refused(capsys, train.main, "resume=run")
    assert str(run.config_file) in message
    assert not Path("ran").exists()
    assert Path("kept").exists()


@pytest.mark.parametrize(
    "where", ["data.size", "trainer.callbacks", "tuner.tuned", "logger.tags", "sampler.new"]
)
def test_nor_code_anywhere_below(run, capsys, where):
    change(run, where, [{"_target_": "os.system", "command": "touch ran"}])
    assert where in refused(capsys, train.main, "resume=run")
    change(run, where, {"_target_": "os.system", "command": "touch ran"})
    assert str(run.config_file) in refused(capsys, sample.main, "run=run")
    assert not Path("ran").exists()


def test_code_of_the_users_own_is_called_where_they_say_so_themselves(run, capsys):
    change(run, "data._target_", "tests_of_mine.Clips")
    message = refused(capsys, train.main, "resume=run")
    assert "'tests_of_mine.Clips' in data._target_" in message
    assert "give data._target_=tests_of_mine.Clips" in message
    # Named on the command line it is looked for.
    assert "tests_of_mine" in refused(capsys, train.main, "resume=run", "data._target_=tests_of_mine.Clips")


@pytest.mark.parametrize(
    "text", ["${oc.env:SECRET}", r"\${oc.env:SECRET}", r"a \\${oc.env:SECRET}", "${seed}"]
)
def test_texts_of_a_run_are_not_interpolated(run, monkeypatch, text):
    monkeypatch.setenv("SECRET", "told")
    for name in ("motion.prompt", "model.path", "data.folder", "logger.project", "sampler.negative_prompt"):
        change(run, name, text)
        opened = RunFolder.open("run")[1]
        assert OmegaConf.select(opened, name) == text
        assert OmegaConf.to_container(opened, resolve=True)["motion"]["prompt"] == text


def test_any_text_keeps_its_backslashes_and_dollars():
    rng = random.Random(0)
    pieces = ["\\", "$", "{", "}", ":", "a", "'", '"', "${", "\\${", "oc.env:HOME", " ", ",", "?"]
    for _ in range(3000):
        text = "".join(rng.choices(pieces, k=rng.randint(1, 9)))
        if text != "???":  # OmegaConf's word for a value that is missing
            assert OmegaConf.create({"a": literal(text)}).a == text


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("trainer.max_steps", "many", ["trainer.max_steps", "'many'", "whole number"]),
        ("trainer.max_steps", 10**30, ["trainer.max_steps", "whole number"]),
        ("data.num_frames", 10**9, ["data.num_frames", "1000000000", "from 2 to 10,000"]),
        ("tuner.learning_rate", float("nan"), ["tuner.learning_rate", "nan"]),
        ("tuner.learning_rate", float("inf"), ["tuner.learning_rate", "inf"]),
        ("data.size", [64], ["data.size", "[height,width]"]),
        ("model.path", "a\0b", ["model.path", "a text"]),
        ("model", None, ["model", "None"]),
        ("data", "a folder", ["data", "'a folder'"]),
        ("sampler.shine", 1, ["sampler.shine", "not known"]),
        ("threads", 1_000_000, ["threads", "1 to 1,024"]),
        ("model.recipe", {"a": {"b": {"c": {"d": 1}}}}, ["model.recipe"]),
    ],
)
def test_what_cannot_be_used_is_named_with_the_file_and_what_may_stand_there(run, capsys, name, value, words):
    change(run, name, value)
    for main, word in ((train.main, "resume=run"), (sample.main, "run=run")):
        message = refused(capsys, main, word)
        for each in (str(run.config_file), *words):
            assert each in message


NEEDED = [name for name, field in fields_of(Train) if field.is_required()]


@pytest.mark.parametrize("name", NEEDED)
def test_a_setting_that_is_missing_is_named(run, name):
    values = OmegaConf.to_container(full_config())
    group, _, last = name.rpartition(".")
    del (values[group] if group else values)[last]
    run.config_file.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=f"it lacks '{name}'"):
        read_config(run.config_file)


def test_a_setting_that_came_later_has_its_default(run):
    values = OmegaConf.to_container(full_config())
    del values["sampler"]["window"], values["model"]["layers"], values["samples"]
    run.config_file.write_text(yaml.safe_dump(values))
    opened = RunFolder.open(run.path)[1]
    assert (opened.sampler.window, opened.model.layers.gate, opened.samples.final) == (128, True, 4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x [1]\nb: *x\n", "alias"),
        ("a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", "alias"),
        ("a: !!python/object/apply:os.system ['touch ran']\n", "python/object"),
        ("a: 1\na: 2\n", "'a' twice"),
        ("[" * 5000, "deep"),
        ("a: " + "[" * 100 + "]" * 100, "deep"),
        ("a: [\n", "line 2"),
        ("x" * (1 << 19), "bytes"),
        ("motion: 3\n", "motion"),
        ("", "motion"),
        ("\x00", "special characters"),
    ],
)
def test_yaml_is_plain_data_within_limits(run, capsys, text, words):
    run.config_file.write_text(text)
    message = refused(capsys, train.main, "resume=run")
    assert str(run.config_file) in message
    assert words in message
    assert not Path("ran").exists()


def test_yaml_reads_what_runs_write(tmp_path):
    for overrides in ([], ["model=sdxl"], ["sampler=fast"], ["experiment=ablation/clips_1"], ["logger=none"]):
        run = RunFolder.create(
            tmp_path / "_".join([*overrides, "run"]).replace("/", "_"), composed("train", overrides)
        )
        assert read_yaml(run.config_file, what="a config") == yaml.safe_load(run.config_file.read_text())
        read_config(run.config_file)


@pytest.mark.parametrize("info", ["{}", "[]", '{"id": 3}', '{"id": "../x"}', "{", "[" * 100_000])
def test_the_identity_of_a_run_is_checked(run, capsys, info):
    run.info_file.write_text(info)
    assert str(run.info_file) in refused(capsys, train.main, "resume=run")


def test_a_config_does_not_say_where_to_write(run, capsys, tmp_path, small):
    elsewhere = tmp_path / "elsewhere"
    change(run, "data.cache_dir", str(elsewhere / "cache"))
    change(run, "data.root", str(elsewhere))
    change(run, "data.folder", "/nowhere/clips/waterfall")
    message = refused_with_note(capsys, "resume=run")
    assert f"data.cache_dir={elsewhere / 'cache'} is not used" in message
    assert "the clips are at /nowhere/clips/waterfall, which does not exist" in message
    assert not elsewhere.exists()


def refused_with_note(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert train.main(list(words)) == 1
    message = capsys.readouterr().err
    assert "\nError: " in message
    return message


def test_the_results_of_an_edit_go_where_its_config_says_only_below_it(run, capsys, tmp_path):
    shutil.rmtree(run.path)
    cfg = composed(
        "edit", ["video=clip.mp4", "prompt=a", f"out={tmp_path / 'elsewhere'}", "data.folder=clip.mp4"]
    )
    RunFolder.create(run.path, cfg)
    assert edit.main(["run=run"]) == 1
    message = capsys.readouterr().err
    assert f"out={tmp_path / 'elsewhere'} is not used" in message
    assert not (tmp_path / "elsewhere").exists()


# -- sweeps --------------------------------------------------------------------------------------------------


def sweep(folder: Path, task: list[object], hydra: tuple[object, ...] = ("hydra.mode=MULTIRUN",)) -> Path:
    folder.mkdir(exist_ok=True)
    values = {
        "hydra": {"overrides": {"hydra": list(hydra), "task": task}, "job": {"name": "${oc.env:SECRET}"}}
    }
    (folder / "multirun.yaml").write_text(yaml.safe_dump(values))
    return folder


@pytest.mark.parametrize(
    "word",
    [
        "data._target_=os.system",
        "+trainer.callbacks=[{_target_:os.system}]",
        "motion.prompt=${oc.env:SECRET}",
        "hydra.run.dir=/tmp/x",
        "hydra.searchpath=[file:///tmp]",
        "+hydra.callbacks.x._target_=os.system",
        "experiment=../../evil",
        "experiment=/etc/evil",
        "model@data=tiny",
        "+new=1",
        "~data",
        "motion.name=../../out",
        "no setting",
    ],
)
def test_a_sweep_of_somebody_else_changes_settings_only(tmp_path, capsys, monkeypatch, word):
    monkeypatch.chdir(tmp_path)
    sweep(Path("sweep"), ["motion=rain", word])
    message = refused(capsys, train.main, "resume=sweep")
    assert "multirun.yaml" in message
    assert word in message


@pytest.mark.parametrize(
    "word",
    [
        "hydra/launcher=../evil",
        "hydra.launcher._target_=os.system",
        "hydra.launcher.setup=[touch ran]",
        "hydra.sweep.subdir=../x",
        "hydra.sweep.subdir=/tmp/x",
        "hydra.sweep.subdir=${oc.env:SECRET}",
        "hydra.callbacks={}",
        "hydra.sweeper.custom_search_space=os.system",
        "hydra.sweeper.storage=sqlite:////tmp/x.db",
        "hydra.sweeper.sampler._target_=os.system",
    ],
)
def test_nor_does_it_change_hydra(tmp_path, word):
    with pytest.raises(UserError, match="which a file may not give"):
        words_of(sweep(tmp_path / "sweep", ["motion=rain"], (word,)))


def test_overrides_of_a_sweep_of_ours_are_taken_up(tmp_path):
    task = ["motion=rain,waterfall", "seed=0,1", "+trainer.deterministic=true", "sampler.shared_noise=0,0.2",
            "experiment=ablation/full,ablation/no_gate", "data.folder=/my clips/rain", "data.cache_dir=x",
            "tuner.tuned=[conv1d,attn1.to_q]", "model.dtype=choice(float32,bfloat16)",
            "tuner.learning_rate=tag(log,interval(1e-5,1e-2))", "optimized_metric=val/loss",
            "debug=limit"]  # fmt: skip
    hydra = ("hydra.mode=MULTIRUN", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2",
             "hydra/sweeper=optuna", "hydra/sweeper/sampler=tpe", "hydra.sweeper.n_trials=6",
             "hydra.sweeper.sampler.seed=3", "hydra.sweeper.direction=maximize",
             "hydra.sweep.subdir=${motion.name}_seed${seed}", "hydra.sweep.dir=old")  # fmt: skip
    folder = sweep(tmp_path / "sweep", task, hydra)
    kept = [word for word in (*hydra[1:-1], *task) if not word.startswith("data.cache_dir")]
    assert words_of(folder) == ["-m", *kept, f"hydra.sweep.dir={folder}"]


@pytest.mark.parametrize("task", [[3], "motion=rain", [["motion=rain"]], ["x" * 20_000]])
def test_overrides_of_the_wrong_type_are_named(tmp_path, task):
    with pytest.raises(UserError, match=r"multirun.yaml cannot be used as the overrides of a sweep: 'task"):
        words_of(sweep(tmp_path / "sweep", task))


def test_a_sweep_goes_on_on_another_kind_of_machine(monkeypatch):
    """What a run took from its machine is no other setting; what the user asks for is."""
    monkeypatch.setenv("LAMP_LIGHTNING_HARDWARE", "cuda_bf16")
    before = OmegaConf.create(OmegaConf.to_container(composed("train", ["model=sdxl"]), resolve=True))
    monkeypatch.setenv("LAMP_LIGHTNING_HARDWARE", "cpu")
    assert changed_settings(before, composed("train", ["model=sdxl"])) == []
    other = composed("train", ["model=sdxl", "trainer.precision=32-true"])
    assert changed_settings(before, other) == ["trainer.precision"]


def test_runs_from_before_there_was_a_frame_rate_go_on():
    """Version 0.1 wrote `sampler.fps: 8` as its default; now the clips say it where the user does not."""
    before = composed("train", ["motion=rain", "sampler.fps=8"])
    assert changed_settings(before, composed("train", ["motion=rain"])) == []
    assert changed_settings(before, composed("train", ["motion=rain", "sampler.fps=12"])) == ["sampler.fps"]
