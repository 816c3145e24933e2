"""The server of the page: where it listens, what it gives out, and how it ends."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import sys
import threading
import time
import webbrowser
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lamp_lightning.app.gate import LOCAL, SLACK, Gate
from lamp_lightning.app.jobs import Jobs
from lamp_lightning.app.workspace import SHOWN, Workspace
from lamp_lightning.runtime.console import short
from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.locks import hold, in_folder
from lamp_lightning.runtime.reading import read_text
from lamp_lightning.runtime.stopping import StopRequest

GB = 10**9
HERE = Path(__file__).parent


def serve(cfg: DictConfig) -> None:
    """Serve the page in its folder until a Ctrl-C or SIGTERM; what runs then is stopped and saved.

    Raises:
        UserError: another page has the folder, the port is taken, or the file of `auth` cannot be used.
    """
    workspace = Workspace.at(str(cfg.folder))
    credentials = None if cfg.auth is None else read_credentials(Path(str(cfg.auth)).expanduser())
    advice = "Use that page, or choose another folder with folder=<folder>."
    with hold(in_folder(workspace.root), what=f"The folder {workspace.root}", advice=advice):
        shutil.rmtree(workspace.root / "uploads", ignore_errors=True)  # of pages that are closed
        (workspace.root / "uploads").mkdir()
        silence_gradio(workspace)
        with StopRequest() as stop:
            jobs = Jobs(workspace, warm=True)
            try:
                page, address = open_page(cfg, workspace, jobs, credentials)
                threading.Thread(target=warm_up, daemon=True).start()
                say_where(cfg, workspace, address, credentials is not None)
                if cfg.show:
                    webbrowser.open(address)
                stop.install()  # Gradio may have taken the signals since
                while not stop.requested:
                    time.sleep(0.2)
                page.close(verbose=False)
            finally:
                jobs.close()


def warm_up() -> None:
    """Import what the first look at clips needs, while the artist chooses them."""
    importlib.import_module("lamp_lightning.inspect.inspection")


def silence_gradio(workspace: Workspace) -> None:
    """No reports to Gradio's makers, no share links, and its files in our folder: before it is imported."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(workspace.root / "uploads")
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        if name not in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR"):
            del os.environ[name]  # GRADIO_SHARE, GRADIO_ALLOWED_PATHS and so on would open what we close


def open_page(
    cfg: DictConfig, workspace: Workspace, jobs: Jobs, credentials: tuple[str, str] | None
) -> tuple[Any, str]:
    """The running page and its address."""
    from starlette.middleware import Middleware

    from lamp_lightning.app.page import build
    from lamp_lightning.app.theme import theme

    logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio asks itself whether it runs
    largest = int(cfg.largest_upload * GB)
    host = str(cfg.host)
    hosts = None if host in ("0.0.0.0", "::") else (*LOCAL, host)
    page = build(workspace, jobs)
    page.queue(default_concurrency_limit=4, max_size=100, api_open=False)
    try:
        page.launch(
            server_name=host,
            server_port=cfg.port,
            share=False,
            inbrowser=False,
            prevent_thread_lock=True,
            quiet=True,
            auth=credentials,
            allowed_paths=[str(workspace.root / name) for name in SHOWN],
            blocked_paths=[str(workspace.root / name) for name in ("jobs", "cache", "data")],
            max_file_size=largest,
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            footer_links=[],
            run_history=False,
            theme=theme(),
            # In `css` Gradio would put its own container before each selector, so that none reaches above it.
            head=f"<style>{(HERE / 'page.css').read_text(encoding='utf-8')}</style>",
            app_kwargs={"middleware": [Middleware(Gate, largest=largest + SLACK, hosts=hosts)]},
        )
    except OSError as error:
        raise UserError(
            f"The page cannot listen at {host}, port {cfg.port}: another program has it, or there is no such "
            "address here. Choose another with port=<number>."
        ) from error
    shown = "127.0.0.1" if hosts is None else host
    return page, f"http://{f'[{shown}]' if ':' in shown else shown}:{cfg.port}"


def read_credentials(file: Path) -> tuple[str, str]:
    """Name and password from a file with one line. UserError where it is something else."""
    name, colon, password = read_text(file, what="a name and a password", limit=1000).strip().partition(":")
    if not (name and colon and password) or "\n" in password:
        raise UserError(f"{file} cannot be used: it must hold one line, <name>:<password>.")
    return name, password


def say_where(cfg: DictConfig, workspace: Workspace, address: str, asks: bool) -> None:
    """Tell where the page is, and who may come."""
    if cfg.host not in LOCAL:
        who = "asks for a password, and sends it unencrypted" if asks else "asks nobody for a password"
        print(
            f"Warning: the page listens at {cfg.host}, for other machines too, and {who}. "
            + ("" if asks else "Whoever reaches it can tune, read and delete. Give auth=<file>."),
            file=sys.stderr,
            flush=True,
        )
    print(f"The page is at {address}\n  folder        {short(workspace.root)}\n  Ctrl-C ends it.", flush=True)
