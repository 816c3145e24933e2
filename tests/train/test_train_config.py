"""The configs compose, and what is wrong in an override is said in one message."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lamp_lightning.runtime.command import shell_overrides
from lamp_lightning.runtime.command_settings import Train
from lamp_lightning.runtime.config import conf_dir, folder_name, options
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.schema import check_settings
from lamp_lightning.sample.__main__ import main as sample_main
from lamp_lightning.train.__main__ import main


def composed(*overrides: str, name: str = "train"):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(name, overrides=list(overrides))


def motion(name: str):
    return composed(f"motion={name}").motion


GROUPS = ("motion", "model", "data", "sampler", "trainer", "logger", "method", "callbacks", "experiment")
ROUNDS = max(len(options(group)) for group in GROUPS)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_every_config_composes_and_passes_its_checks(number):
    """In round k every group has its k-th option, so all options are met, in company."""
    chosen = [f"{group}={options(group)[number % len(options(group))]}" for group in GROUPS]
    name = ["motion.name=mine"] if "motion=custom" in chosen else []
    cfg = composed(*chosen, *name)
    check_settings(Train, cfg)
    OmegaConf.to_container(cfg, resolve=True)


def test_the_paper_recipe_is_the_authors():
    cfg = composed("experiment=paper")
    assert cfg.model.path == "CompVis/stable-diffusion-v1-4"
    assert (cfg.model.norm, list(cfg.data.size), cfg.data.num_frames) == ("joint", [320, 512], 16)
    assert (cfg.data.batch_size, cfg.data.flip) == (1, True)
    assert (cfg.tuner.learning_rate, cfg.tuner.weight_decay, cfg.tuner.schedule) == (3e-5, 1e-2, "constant")
    assert (cfg.trainer.max_steps, cfg.trainer.gradient_clip_val) == (30000, 1.0)
    sampler = cfg.sampler
    assert (sampler.scheduler, sampler.num_inference_steps) == ("DDIMScheduler", 50)
    assert (sampler.guidance_scale, sampler.shared_noise) == (12.5, 0.2)
    assert sampler.adain is True
    assert sampler.histogram_matching is True


def test_an_experiment_yields_to_the_command_line():
    assert composed("experiment=paper", "model=sd15", "tuner.learning_rate=1e-4").model.name == "sd15"


def test_the_model_alone_decides_what_suits_it():
    tiny, large = composed("model=tiny"), composed("model=sd14")
    assert (list(tiny.data.size), tiny.sampler.guidance_scale) == ([64, 64], 1.0)
    assert (list(large.data.size), large.sampler.guidance_scale) == ([320, 512], 12.5)


DEFAULT_METHODS = {"tiny": "lamp", "sd15": "lamp", "tiny_dit": "lamp_scheduled", "ltx": "image_to_video"}


def test_a_model_is_tuned_by_the_method_that_suits_it(capsys):
    for model, method in DEFAULT_METHODS.items():
        assert composed(f"model={model}") == composed(f"model={model}", f"method={method}")
        assert composed(f"model={model}", "method=lamp_paper").method.name == "lamp_paper"
    others = set(options("method_on_model/default")) - set(DEFAULT_METHODS)
    assert not others, "The list above says the method of each model that has one of its own."
    assert main(["model=tiny_dit", "method=nothing"]) == 1
    assert "There are animatediff, default," in capsys.readouterr().err


def test_the_paper_and_the_ablations_are_lamp_on_every_model():
    for experiment in ("paper", *(f"ablation/{name}" for name in options("experiment/ablation"))):
        for model in DEFAULT_METHODS:
            words = (f"experiment={experiment}", f"model={model}")
            assert composed(*words) == composed(*words, "method=lamp")


def test_motions_with_a_direction_are_not_flipped():
    assert {name for name in options("motion") if motion(name).flip} == {
        "custom",
        "fire",
        "firework",
        "waterfall",
    }


def test_all_motions_of_the_toy_world_have_a_config():
    from lamp_lightning.toyworld.scenes import MOTIONS

    assert set(MOTIONS) <= set(options("motion"))


@pytest.fixture(scope="module")
def defaults():
    return composed()


@pytest.mark.parametrize(
    ("key", "value", "meaning"),
    [
        ("trainer.max_steps", "many", "a whole number of at least 0, but is 'many'"),
        ("trainer.max_steps", -1, "a whole number of at least 0, but is -1"),
        ("data.num_frames", 1, "a whole number from 2 to 10,000, but is 1"),
        ("data.batch_size", 2.5, "a whole number from 1 to 4,096, but is 2.5"),
        ("data.size", 64, "[height,width] in pixels"),
        ("data.size", [64, 4], "[height,width] in pixels"),
        ("data.flip", "perhaps", "true or false, but is 'perhaps'"),
        ("tuner.learning_rate", "fast", "a number above 0, but is 'fast'"),
        ("tuner.learning_rate", -1, "a number above 0, but is -1"),
        ("tuner.learning_rate", float("nan"), "a number above 0, but is nan"),
        ("tuner.schedule", "linear", "one of constant, cosine, but is 'linear'"),
        ("sampler.shared_noise", 2, "a number from 0 to 1, but is 2"),
        ("sampler.adain", 7, "true or false, but is 7"),
        ("model.norm", "batch", "one of joint, per_frame, but is 'batch'"),
        ("threads", 0, "a whole number from 1 to 1,024 or null, but is 0"),
        ("seed", None, "a whole number from 0 to 9,223,372,036,854,775,807, but is null"),
        ("seed", True, "a whole number from 0 to 9,223,372,036,854,775,807, but is True"),
        ("motion.prompts", "lake", "a list of texts"),
        ("motion.name", " ", "a text, but is ' '"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_may_be(defaults, key, value, meaning):
    cfg = defaults.copy()
    check_settings(Train, cfg)
    OmegaConf.update(cfg, key, value)
    with pytest.raises(UserError) as error:
        check_settings(Train, cfg)
    assert str(error.value).startswith(f"{key} must be {meaning}")
    assert f"{key}=<value>" in str(error.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.max_steps=many", ["trainer.max_steps must be a whole number of at least 0, but is 'many'"]),
        ("motion=nothing", ["no motion 'nothing'", "waterfall", "fire"]),
        ("experiment=papers", ["Could not find 'experiment/papers'", "paper"]),
        ("motoin=rain", ["'motoin'", "Did you mean motion?", "sampler"]),
        ("traner.max_steps=3", ["Did you mean trainer.max_steps?"]),
        ("trainer.max_step=3", ["trainer.max_step"]),
        ("data.size=[64", ["'data.size=[64' cannot be read"]),
        ("motion=custom", ["motion.name has no value"]),
        ("resume=nowhere", ["There is no run at"]),
    ],
)
def test_a_wrong_name_or_value_ends_in_one_message(override, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([override]) == 1
    captured = capsys.readouterr()
    for word in words:
        assert word in captured.err
    assert captured.err.count("Error:") == 1
    assert "Traceback" not in captured.err + captured.out
    assert not list(tmp_path.rglob("config.yaml"))


def test_a_motion_without_a_config_is_custom_when_its_folder_is_given():
    words = shell_overrides(["motion=my_dance", "data.folder=clips/dance"])
    cfg = composed(*words)
    assert (cfg.motion.name, cfg.data.folder) == ("my_dance", "clips/dance")
    assert shell_overrides(["motion=rain", "data.folder=x"])[0] == "motion=rain"


@pytest.mark.parametrize(
    "text",
    [
        "a dog, running",
        'it\'s a "dog"',
        "x = {y}: [z]",
        "C:\\clips\\new\\",
        "ends in quote'",
        "back\\'slash",
        "a/b/c",
        "50% (half) $HOME ${HOME}",
        "  spaces  ",
        "日本語",
        "null and void",
    ],
)
def test_texts_reach_the_config_as_they_were_typed(text):
    cfg = composed(*shell_overrides([f"prompt={text}", "run=x"]), name="sample")
    assert cfg.prompt == text


def test_sweeps_keep_their_commas():
    assert shell_overrides(["-m", "motion.prompt=a,b"]) == ["-m", "motion.prompt=a,b"]


def test_folder_names_are_safe():
    assert folder_name("birds_fly") == "birds_fly"
    assert folder_name("../../etc/passwd") == "etc_passwd"
    assert folder_name("...") == "untitled"
    assert len(folder_name("a" * 5000)) == 60


def test_the_configs_of_an_installed_wheel_are_found(tmp_path, monkeypatch):
    from lamp_lightning.runtime import config

    package = tmp_path / "site-packages" / "lamp_lightning"
    (package / "conf").mkdir(parents=True)
    (package / "conf" / "train.yaml").write_text("")
    monkeypatch.setattr(config, "__file__", str(package / "runtime" / "config.py"))
    assert conf_dir() == package / "conf"
    (package / "conf" / "train.yaml").unlink()
    with pytest.raises(UserError, match="config folder is missing"):
        conf_dir()


def test_sample_says_what_is_wrong(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words, message in (
        (["prompt=x"], "The setting run has no value"),
        (["run=nowhere"], "does not exist"),
        (["run=.", "count=none"], "count must be a whole number"),
        (["run=."], "is no run folder"),
        (["run=.", "promt=x"], "promt"),
    ):
        assert sample_main(words) == 1
        err = capsys.readouterr().err
        assert message in err
        assert err.count("Error:") == 1
    assert list(Path(tmp_path).iterdir()) == []


def test_clips_without_a_motion_are_called_like_their_folder() -> None:
    cfg = composed(*shell_overrides(["data.folder=clips/tea time/"]))
    assert (cfg.motion.name, cfg.motion.held_out, cfg.data.folder) == ("tea_time", [], "clips/tea time/")
    assert composed(*shell_overrides(["data.folder=x/rain"])).motion.flip is False  # the config of that name
    words = shell_overrides(["-m", "data.folder=a/tea,b/dance"])
    assert composed(*words[1:-1], "data.folder=b/dance").motion.name == "dance"


def test_a_folder_below_the_data_root_is_a_motion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pouring_tea", "rain", ".hidden"):
        (tmp_path / "data" / name).mkdir(parents=True)
    seen = []
    monkeypatch.setattr("lamp_lightning.train.__main__.begin", seen.append)
    assert main(["motion=pouring_tea"]) == 0
    assert main(["-m", "motion=rain,pouring_tea"]) == 0
    assert [(cfg.motion.name, cfg.motion.flip, cfg.data.folder) for cfg in seen] == [
        ("pouring_tea", True, "data/pouring_tea"),
        ("rain", False, "data/rain"),  # its config counts
        ("pouring_tea", True, "data/pouring_tea"),
    ]
    assert main(["motion=pouring_te"]) == 1
    said = capsys.readouterr().err
    assert "no folder data/pouring_te" in said
    assert "Did you mean pouring_tea?" in said
    assert "hidden" not in said
    (tmp_path / "elsewhere").mkdir()
    assert main(["motion=elsewhere", f"data.root={tmp_path}"]) == 0
    assert seen[-1].data.folder == f"{tmp_path}/elsewhere"
