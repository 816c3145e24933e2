"""The page as an artist meets it: in Chromium, with real clips, real tuning and downloads."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lamp_lightning.data.video import read_video, write_mp4
from lamp_lightning.toyworld import motion_set_scenes, render_clip

pytest.importorskip("gradio", reason="the page needs Gradio: pip install -e '.[app]'")
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
FRAMES, PATIENCE = 4, 240_000  # of a clip; milliseconds


class Server:
    """`python -m lamp_lightning.app` in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        with (self.folder / "server.log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lamp_lightning.app", f"port={self.port}"],
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
        self.wait(lambda: "The page is at" in self.said())

    def wait(self, there: Any, seconds: float = 110) -> None:
        end = time.monotonic() + seconds
        while not there():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.05)

    def said(self) -> str:
        return (self.folder / "server.log").read_text()

    def jobs(self) -> dict[str, Any]:
        files = sorted((self.folder / "lamp_studio" / "jobs").glob("*.json"))
        return {file.stem: json.loads(file.read_text()) for file in files}

    def ask(self, request: bytes) -> str:
        """What the server answers to bytes that no browser would send."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as line:
            line.sendall(request)
            answer = b""
            with contextlib.suppress(OSError):
                while block := line.recv(65536):
                    answer += block
                    if b"\r\n\r\n" in answer and len(answer.partition(b"\r\n\r\n")[2]) > 10:
                        break
        return answer.decode(errors="replace")

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(90)


@pytest.fixture(scope="module")
def server(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("page"))
    yield server
    server.end()


@pytest.fixture(scope="module")
def dropped(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("from the phone")
    return [
        write_mp4(folder / f"My clip {k}.mp4", render_clip(scene, frames=FRAMES), fps=8)
        for k, scene in enumerate(motion_set_scenes("waterfall", 8))
    ]


@contextlib.contextmanager
def tab_of(browser: Any, server: Server, size: dict[str, int] = DESKTOP) -> Iterator[tuple[Any, list[str]]]:
    """The page in a tab of its own, and what went wrong there: errors, and requests to other machines."""
    context = browser.new_context(viewport=size, accept_downloads=True)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    ours = (server.url, f"ws://127.0.0.1:{server.port}", "data:", "blob:")
    page.on("request", lambda r: None if r.url.startswith(ours) else wrong.append(r.url))
    page.goto(server.url)
    page.wait_for_selector("#files input[type=file]", state="attached")
    try:
        yield page, wrong
    finally:
        context.close()


def go_to(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def drop(page: Any, files: list[Path], name: str) -> None:
    page.set_input_files("#files input[type=file]", [str(file) for file in files])
    page.wait_for_function(
        "n => document.querySelectorAll('#files .file-preview tr.file').length === n", arg=len(files)
    )
    page.fill("#name textarea, #name input", name)
    page.fill("#frames input[type=number]", str(FRAMES))
    page.press("#frames input[type=number]", "Tab")
    page.click("#look")


def tune(page: Any, steps: int, every: int) -> None:
    go_to(page, "Tune")
    page.fill("#steps input", str(steps))
    page.fill("#every input", str(every))
    page.press("#every input", "Tab")
    page.click("#tune")


def test_from_eight_clips_to_a_video_and_a_motion(browser: Any, server: Server, dropped: list[Path]) -> None:
    studio = server.folder / "lamp_studio"
    with tab_of(browser, server) as (page, wrong):
        drop(page, dropped, "Falling water")
        page.wait_for_selector("#clips img.ll-sheet")
        assert "8 clips as the model will see them" in page.inner_text("#clips")
        page.wait_for_function("() => document.querySelector('#clips img').naturalWidth > 300")
        assert len(list((studio / "data" / "falling_water").glob("*.mp4"))) == 8

        go_to(page, "Tune")
        page.set_input_files("#tune_picture input[type=file]", str(picture_of(server.folder)))
        page.wait_for_selector(".ll-given img", state="attached")
        tune(page, steps=2, every=1)
        page.wait_for_selector("#work .ll-running [role=progressbar]")
        page.wait_for_selector("#tuned figcaption:has-text('step 1')")  # a preview, while it tunes or after
        page.wait_for_selector("#adapter a")
        page.wait_for_function("() => !document.querySelector('#work li')")
        run = studio / "runs" / "falling_water" / "0001"
        preview = next(run.glob("samples/step_000001/*.mp4"))
        red = read_video(preview)[0].reshape(-1, 3).mean(axis=0)  # the picture that was given is red
        assert red[0] > 1.5 * red[1:].max()
        with page.expect_download() as download:
            page.click("#adapter a")
        assert download.value.suggested_filename == "falling_water.safetensors"
        assert Path(download.value.path()).read_bytes() == (run / "adapter.safetensors").read_bytes()

        go_to(page, "Paint")
        page.fill("#prompt textarea, #prompt input", "a red waterfall, '${oc.env:HOME}'")
        page.click("#paint")
        page.wait_for_selector("#painted video")
        page.wait_for_function("() => document.querySelector('#painted video').readyState >= 2")
        with page.expect_download() as download:
            page.click("#painted a[download$='.mp4']")
        video = Path(download.value.path()).rename(server.folder / "video.mp4")
        assert len(read_video(video)) == FRAMES
        record = json.loads(next((studio / "videos").glob("*/*.json")).read_text())
        assert record["prompt"] == "a red waterfall, '${oc.env:HOME}'"

        go_to(page, "Compare")
        page.wait_for_function("() => document.querySelectorAll('#pair video').length === 2")
        assert page.evaluate("document.documentElement.scrollWidth") <= DESKTOP["width"]
        assert wrong == []


def picture_of(folder: Path) -> Path:
    from PIL import Image

    file = folder / "my picture.png"
    Image.new("RGB", (64, 64), (220, 30, 30)).save(file)
    return file


def test_hostile_uploads_end_in_a_message(browser: Any, server: Server, dropped: list[Path]) -> None:
    folder = server.folder / "hostile"
    folder.mkdir()
    text = folder / "text.mp4"
    text.write_text("This is no video.\n" * 100)
    before = sorted((server.folder / "lamp_studio" / "data").iterdir())
    with tab_of(browser, server, PHONE) as (page, _):
        drop(page, [text], "nothing")
        page.wait_for_selector("#clips .ll-fault")
        said = page.inner_text("#clips")
        assert "text.mp4: not a video" in said
        assert str(server.folder) not in said
        assert sorted((server.folder / "lamp_studio" / "data").iterdir()) == before
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]

    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
    answer = server.ask(f"{head}Content-Length: {10 * 2**30}\r\n\r\n".encode())
    assert answer.startswith("HTTP/1.1 413")
    assert "are the most that can be sent" in answer

    part = (
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="../../../../evil.mp4"\r\n\r\nx\r\n'
    )
    body = part + b"--x--\r\n"
    head += f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = server.ask(head.encode() + body)
    assert answer.startswith("HTTP/1.1 200")
    kept = list(server.folder.parent.rglob("*evil*"))
    assert kept
    assert all(file.is_relative_to(server.folder / "lamp_studio" / "uploads") for file in kept)

    for wanted in ("/etc/passwd", server.folder / "lamp_studio" / "jobs" / "0001.json", "../../etc/passwd"):
        request = f"GET /gradio_api/file={wanted} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n"
        assert server.ask(request.encode()).startswith("HTTP/1.1 403"), wanted
    for line in ("Host: evil.example", f"Host: 127.0.0.1:{server.port}\r\nOrigin: http://evil.example"):
        answer = server.ask(f"GET / HTTP/1.1\r\n{line}\r\n\r\n".encode())
        assert answer.startswith(("HTTP/1.1 421", "HTTP/1.1 403")), line


@pytest.mark.slow
def test_two_tabs_do_not_disturb_each_other(browser: Any, server: Server, dropped: list[Path]) -> None:
    with tab_of(browser, server) as (one, _), tab_of(browser, server) as (two, _):
        drop(one, dropped[:2], "one")
        drop(two, dropped[2:4], "two")
        for page in (one, two):
            page.wait_for_selector("#clips img.ll-sheet")
            assert "2 clips as the model" in page.inner_text("#clips")
            go_to(page, "Tune")
        for page, name in ((one, "one"), (two, "two")):
            page.wait_for_function(f"() => document.querySelector('#motion input').value === '{name}'")
        one.wait_for_timeout(2500)  # each has seen the other's motion by now
        assert one.input_value("#motion input") == "one"
        assert two.input_value("#motion input") == "two"
        assert "1 clip" not in one.inner_text("#clips")


@pytest.mark.slow
def test_killed_in_mid_tuning_and_restarted_it_offers_to_go_on(
    browser: Any, server: Server, dropped: list[Path]
) -> None:
    with tab_of(browser, server) as (page, _):
        drop(page, dropped, "Going on")
        page.wait_for_selector("#clips img.ll-sheet")
    with tab_of(browser, server) as (page, _):  # another tab tunes them as they were looked at
        go_to(page, "Tune")
        page.wait_for_function("() => document.querySelector('#motion input').value === 'going on'")
        tune(page, steps=100, every=100)
        page.wait_for_selector("#work .ll-running")
    number = max(server.jobs())
    run = server.folder / "lamp_studio" / server.jobs()[number]["request"]["motion"]
    run = server.folder / "lamp_studio" / "runs" / run.name / number
    server.wait(lambda: (run / "csv" / "metrics.csv").exists())
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    server.start()
    with tab_of(browser, server) as (page, _):
        page.wait_for_selector("#work .ll-stopped")
        assert "The server ended in between" in page.inner_text("#work")
        page.click("#go_on")
        page.wait_for_selector("#work .ll-running")
        page.wait_for_function("() => /step \\d+ of 100/.test(document.querySelector('#work').innerText)")
        log = (server.folder / "lamp_studio" / "jobs" / f"{number}.log").read_text()
        assert "Error" not in log
        page.click("#stop")
        page.wait_for_selector("#work .ll-stopped")
        assert (run / "checkpoints" / "last.ckpt").is_file()
        page.click("#forget")
        page.wait_for_function("() => !document.querySelector('#work li')")
