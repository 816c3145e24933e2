"""The program of the child process that decodes clips. It may hang, leak or crash; its parent must not.

It reads one JSON request a line from standard input, writes the frames as raw bytes into the file that the
request names, and answers with one JSON line. It imports nothing of this package but `fit`, and no torch.

PyAV decodes, and not decord: it has wheels for every system, reads AV1 and GIF, keeps the order of MPEG-2's
frames, and gives the same bits as decord for whole files of 8 bits.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from lamp_lightning.data.fit import fit_frame

MAX_OUTPUT_BYTES = 4 << 30
MAX_MEMORY_BYTES = 8 << 30
MAX_PIXELS = 100_000_000


class _CannotWrite(Exception):
    """The frames cannot be written: the disk's fault, not the clip's. Holds an error's number and text."""


def main() -> None:
    """Serve requests until standard input closes."""
    # Libraries print to standard output: keep the real one for answers, send everything else to stderr.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then stops this process
    _limit_memory()
    _answer(answers, {"ready": True})
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    while True:
        request = json.loads(requests.get())
        _stop_after(request["limit_s"])
        try:
            decoded = Decoded(request["path"])
            frames = decoded.frames(request.get("fps"))
            reply = _write(frames, request["out"], request["size"]) | decoded.facts(request.get("fps"))
        except MemoryError:  # what leaked stays lost: the parent starts another process
            reply = {"fatal": f"decoding needs more than {MAX_MEMORY_BYTES >> 30} GiB of memory"}
        except _CannotWrite as error:
            reply = {"disk": error.args}
        except Exception as error:
            reply = {"error": f"{error}".strip() or type(error).__name__}
        _stop_after(None)
        _answer(answers, reply)


def _listen(requests: queue.Queue[str]) -> None:
    """Pass requests on; end this process, whatever it decodes, when its parent is no more or is done."""
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)


def _answer(answers: Any, reply: dict) -> None:
    answers.write(json.dumps(reply) + "\n")
    answers.flush()


def _stop_after(limit_s: float | None) -> None:
    """Have the system end this process a little after its limit, even if the parent is no more."""
    if hasattr(signal, "alarm"):
        signal.alarm(0 if limit_s is None else int(limit_s) + 5)


def _limit_memory() -> None:
    try:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = MAX_MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MAX_MEMORY_BYTES, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    except (ImportError, OSError, ValueError):  # not on this system: the time limit still holds
        pass


def _write(frames: Iterator[np.ndarray], out: str, size: list[int] | None) -> dict:
    digest, count, written = hashlib.sha256(), 0, 0
    source: tuple[int, ...] | None = None
    shape: tuple[int, ...] = (0, 0, 3)
    with open(out, "wb", buffering=0) as file:
        for frame in frames:
            source = source or frame.shape
            if size is None and frame.shape != source:
                raise RuntimeError(
                    f"the picture size changes from {source[:2]} to {frame.shape[:2]} in mid-clip"
                )
            fitted = fit_frame(frame, (size[0], size[1])) if size else frame
            data = np.ascontiguousarray(fitted).tobytes()
            written += len(data)
            if written > MAX_OUTPUT_BYTES:
                raise RuntimeError(
                    f"the clip is too long: over {count} frames ({MAX_OUTPUT_BYTES >> 30} GiB decoded)"
                )
            _put(file, data)
            digest.update(data)
            count, shape = count + 1, fitted.shape
    if source is None:
        raise RuntimeError("no frame could be decoded")
    return {"shape": [count, *shape], "source_size": source[:2], "sha256": digest.hexdigest()}


def _put(file: BinaryIO, data: bytes) -> None:
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise _CannotWrite(error.errno, error.strerror) from error


class Decoded:
    """The frames of a file, uint8 RGB `(h, w, 3)` and upright, at their own rate or another one.

    `fps` is what the file says of its rate, 0 where it says nothing; `times` are those of the frames that
    were read so far, in seconds, None where the file does not time one.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.fps = 0.0
        self.times: list[float | None] = []
        self.last = 0.0  # the time of the frame before

    def frames(self, rate: float | None) -> Iterator[np.ndarray]:
        """All frames as they are, or at `rate` frames per second: those that are shown nearest to its ticks.

        Raises:
            RuntimeError: no video, or frames without times where a rate is asked for.
        """
        return self._read() if rate is None else (frame for frame, n in self._ticks(rate) for _ in range(n))

    def facts(self, rate: float | None) -> dict:
        """What is known of the rate once all frames are read."""
        known = [time for time in self.times if time is not None]
        return {
            "fps": self.fps if rate is None else rate,
            "source_fps": self.fps,
            "variable": len(known) == len(self.times) and is_variable(known),
        }

    def _ticks(self, rate: float) -> Iterator[tuple[np.ndarray, int]]:
        """Each frame, and how many ticks of a clock of that rate it is the nearest to."""
        before: np.ndarray | None = None
        start, tick = 0.0, 0
        for frame in self._read():
            now = self._time()
            if before is None:
                start = now
            else:
                middle = (self.last + now) / 2
                count = _ticks_before(middle - start, rate) - tick
                yield before, max(0, count)
                tick += max(0, count)
            before, self.last = frame, now
        if before is not None:
            shown = 1 / self.fps if self.fps else 1 / rate
            yield before, max(0, _ticks_before(self.last - start + 0.9 * shown, rate) - tick)

    def _time(self) -> float:
        """When the frame that was read last is shown, in seconds."""
        time = self.times[-1]
        if time is not None:
            return time
        if not self.fps:
            raise RuntimeError("the file does not say when its frames are shown, which data.fps needs")
        return (len(self.times) - 1) / self.fps

    def _read(self) -> Iterator[np.ndarray]:
        with open(self.path, "rb") as file:
            head = file.read(12)
        return self._read_webp() if head[:4] == b"RIFF" and head[8:] == b"WEBP" else self._read_video()

    def _read_webp(self) -> Iterator[np.ndarray]:
        """FFmpeg reads no animated webp, Pillow does."""
        from PIL import Image, ImageSequence

        with Image.open(self.path, formats=("WEBP",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise RuntimeError(f"it has {image.width:,}x{image.height:,} pixels, more than videos have")
            shown = 0.0
            for frame in ImageSequence.Iterator(image):
                frame.load()
                self.times.append(shown)
                shown += max(1, frame.info.get("duration") or 100) / 1000
                self.fps = len(self.times) / shown
                paper = Image.new("RGBA", frame.size, "white")  # behind what is transparent
                yield np.asarray(Image.alpha_composite(paper, frame.convert("RGBA")).convert("RGB"))

    def _read_video(self) -> Iterator[np.ndarray]:
        import av
        from av.video.reformatter import VideoReformatter

        with av.open(self.path) as container:
            if not container.streams.video:
                raise RuntimeError("the file holds no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            rate = stream.average_rate or stream.guessed_rate
            self.fps = float(rate) if rate else 0.0
            reformatter = VideoReformatter()  # one for all frames saves a fifth of the time
            for frame in container.decode(stream):
                self.times.append(frame.time)
                # Phones store a portrait clip lying down, with a mark (in degrees, anticlockwise) to turn it.
                pixels = reformatter.reformat(frame, format="rgb24").to_ndarray()
                yield np.rot90(pixels, round(frame.rotation / 90))


def _ticks_before(seconds: float, rate: float) -> int:
    """How many ticks 0, 1/rate, 2/rate ... are at most that late."""
    return math.floor(seconds * rate + 1e-6) + 1


def is_variable(times: list[float]) -> bool:
    """Whether more than a tenth of the frames are shown clearly longer or shorter than is usual."""
    steps = np.diff(times)
    if len(steps) < 3:
        return False
    usual = float(np.median(steps))
    return bool((np.abs(steps - usual) > 0.25 * usual + 1e-3).mean() > 0.1)


if __name__ == "__main__":
    main()
