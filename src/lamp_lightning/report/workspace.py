"""`python -m lamp_lightning.report.workspace project=lamp-lightning`: how W&B shows our runs, saved there.

The same sections as on the page that `collect` writes: losses, videos over the steps, measures, the clips.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from lamp_lightning.metrics.registry import MEASURES
from lamp_lightning.report.runs import find_runs
from lamp_lightning.runtime.command import run_plainly
from lamp_lightning.runtime.errors import UserError, first_line
from lamp_lightning.runtime.loggers import logged_in
from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.runtime.sweeps import changed_settings

USAGE = (
    "python -m lamp_lightning.report.workspace project=lamp-lightning [entity=<team>] [runs=multirun/<time>]"
)
STEP = "training step"
# What a run logs: name, title, label of the y axis.
LINES = (
    (("train/loss", "val/loss"), "Loss on the clips and on held-out ones", "mean squared error"),
    (("train/learning_rate",), "Learning rate", "rate"),
    (("train/step_seconds",), "Time of a step", "seconds"),
    (("memory/process_gib", "memory/gpu_gib"), "Most memory so far", "GiB"),
)
MEASURED = [m for m in MEASURES.values() if m.of_video is not None and {*m.needs} <= {"clip", "prompt"}]


def workspace(project: str, entity: str = "", settings: Sequence[str] = ()) -> Any:
    """The layout of a project's runs, a `wandb_workspaces.workspaces.Workspace` that `save()` saves.

    Args:
        project: of W&B.
        entity: the user or team that it belongs to.
        settings: dotted names of settings, such as those that a sweep changes, to be columns of the table of
            runs and axes of a plot.

    Raises:
        UserError: `wandb-workspaces` is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise UserError(
            f"A workspace needs the package wandb-workspaces ({error}): pip install wandb-workspaces."
        ) from error

    def lines(keys: Sequence[str], title: str, label: str) -> Any:
        return wr.LinePlot(title=title, x="Step", y=list(keys), title_x=STEP, title_y=label)

    def pictures(key: str, title: str) -> Any:
        return wr.MediaBrowser(title=title, media_keys=[key], num_columns=1)

    def section(name: str, *panels: Any) -> Any:
        return ws.Section(name, panels=list(panels), is_open=True)

    def videos(name: str, key: str) -> Any:
        table = wr.WeavePanelSummaryTable(table_name=f"{key}/table")
        return section(name, pictures(f"{key}/contact_sheet", "Held-out prompts"), table)

    measured = [(f"metrics/{m.name}", m) for m in MEASURED]
    sections = [
        section("Training", *(lines(*each) for each in LINES)),
        videos("Videos over the steps", "samples"),
        videos("Final videos", "videos"),
        section("Measures", *(lines([key], m.heading, m.label) for key, m in measured)),
        section("Clips", pictures("clips", "As the model sees them")),
    ]
    numbers = ["train/loss", "val/loss", *(key for key, _ in measured)]
    if settings:
        axes = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(name)) for name in settings]
        axes += [wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(key)) for key in numbers[:3]]
        sections.insert(0, section("Sweep", wr.ParallelCoordinatesPlot(columns=axes)))
    columns = [column(name) for name in ("motion.name", *settings)]
    columns += [f"summary:{key}" for key in numbers]
    return ws.Workspace(
        entity=entity,
        project=project,
        name="LAMP",
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis="Step"),
        runset_settings=ws.RunsetSettings(pinned_columns=["run:displayName", *columns]),
    )


def column(setting: str) -> str:
    """The name of a setting's column in W&B's table of runs.

    Example:
        >>> column("sampler.shared_noise")
        'config:sampler.value.shared_noise'
    """
    group, *rest = setting.split(".")
    return ".".join([f"config:{group}", "value", *rest])


def swept(runs: str) -> list[str]:
    """The settings in which the runs below a folder differ. UserError where there is none."""
    configs = [RunFolder.open(folder)[1] for folder in find_runs([runs])]
    names = {name for cfg in configs[1:] for name in changed_settings(configs[0], cfg)}
    return sorted(name for name in names if not name.startswith(("motion.", "data.folder")))


def main(argv: Sequence[str] | None = None) -> int:
    """Save the workspace; returns the exit status."""
    return run_plainly(lambda: _save(list(sys.argv[1:] if argv is None else argv)))


def _save(words: Sequence[str]) -> None:
    if {"-h", "--help"} & {*words}:
        print(f"{__doc__}\n{USAGE}")
        return
    given = dict(word.split("=", 1) for word in words if "=" in word)
    if len(given) != len(words) or given.keys() - {"project", "entity", "runs"} or not given.get("project"):
        raise UserError(f"Call it as {USAGE}.")
    found = workspace(
        given["project"], given.get("entity", ""), swept(given["runs"]) if "runs" in given else ()
    )
    if not logged_in():
        raise UserError(
            "A workspace is kept by W&B's server, and you are not logged in: run `wandb login`, upload "
            "offline runs with the `wandb sync` line that each of them ended with, and call this again."
        )
    import wandb

    try:
        found.entity = found.entity or wandb.Api().default_entity
        print(f"The workspace 'LAMP': {found.save().url}")
    except Exception as error:  # of the network or the server: anything
        raise UserError(f"W&B does not save the workspace: {first_line(error)}") from error


if __name__ == "__main__":
    sys.exit(main())
