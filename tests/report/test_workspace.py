"""The layout of W&B's workspace: what runs log stands in it, and nothing is sent without a login."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from conftest import full_config
from lamp_lightning.report import workspace as module
from lamp_lightning.report.workspace import main, workspace
from lamp_lightning.runtime.runs import RunFolder

pytest.importorskip("wandb_workspaces")


def spec(made: Any) -> str:
    return str(made._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))


def test_the_layout_has_what_a_run_logs() -> None:
    found = spec(workspace("lamp", "me", ["sampler.shared_noise"]))
    for name in (
        "train/loss", "val/loss", "samples/table", "videos/table", "samples/contact_sheet", "clips",
        "metrics/clip_score", "training step", "config:sampler.value.shared_noise", "summary:val/loss",
        "config:motion.value.name",
    ):  # fmt: skip
        assert name in found, name
    titles = [section["name"] for section in json.loads(found)["section"]["panelBankConfig"]["sections"]]
    assert titles[:3] == ["Sweep", "Training", "Videos over the steps"]
    assert '"Sweep"' not in spec(workspace("lamp"))


def test_settings_that_differ_between_the_runs_of_a_sweep_are_columns(tmp_path) -> None:
    for k, noise in enumerate((0.0, 0.2)):
        cfg = full_config().copy()
        cfg.sampler.shared_noise = noise
        RunFolder.create(tmp_path / str(k), cfg)
    assert module.swept(str(tmp_path)) == ["sampler.shared_noise"]


def test_without_a_login_or_the_package_it_says_what_is_needed(capsys, monkeypatch) -> None:
    monkeypatch.setattr(module, "logged_in", lambda: False)
    assert main(["project=lamp"]) == 1
    assert "you are not logged in: run `wandb login`" in capsys.readouterr().err
    assert main(["lamp"]) == 1
    assert "project=lamp-lightning" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    assert main(["project=lamp"]) == 1
    assert "pip install wandb-workspaces" in capsys.readouterr().err


def test_with_a_login_it_is_saved_under_the_users_name(capsys, monkeypatch) -> None:
    import wandb
    import wandb_workspaces.workspaces as ws

    saved = []
    monkeypatch.setattr(module, "logged_in", lambda: True)
    monkeypatch.setattr(wandb, "Api", lambda: type("Api", (), {"default_entity": "me"}))
    monkeypatch.setattr(ws.Workspace, "save", lambda self: saved.append(self) or self)
    monkeypatch.setattr(ws.Workspace, "url", "https://wandb.ai/me/lamp?nw=1")
    assert main(["project=lamp"]) == 0
    assert saved[0].entity == "me"
    assert "https://wandb.ai/me/lamp?nw=1" in capsys.readouterr().out
    monkeypatch.setattr(ws.Workspace, "save", lambda self: 1 / 0)
    assert main(["project=lamp"]) == 1
    assert "W&B does not save the workspace: division by zero" in capsys.readouterr().err
