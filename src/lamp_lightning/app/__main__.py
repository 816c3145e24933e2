"""`python -m lamp_lightning.app`: a page for tuning and painting, in the browser."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from omegaconf import DictConfig

from lamp_lightning.runtime.command import run_command
from lamp_lightning.runtime.command_settings import App
from lamp_lightning.runtime.console import quiet
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.schema import check_settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    quiet()
    return run_command(app, "app", sys.argv[1:] if argv is None else argv)


def app(cfg: DictConfig) -> None:
    """Serve the page until Ctrl-C or SIGTERM."""
    check_settings(App, cfg)
    if find_spec("gradio") is None:
        raise UserError(
            "The page needs Gradio, which is not installed. In the folder of the project: "
            "pip install -e '.[app]'"
        )
    from lamp_lightning.app.server import serve

    serve(cfg)


if __name__ == "__main__":
    sys.exit(main())
