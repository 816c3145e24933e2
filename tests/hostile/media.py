"""Pictures and clips that are not what they are called, or claim to be enormous."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from hostile.documents import damage_bytes, damage_place


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, *, bits: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    """A PNG with that header; its pixels are those of a small one."""
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    pixels = zlib.compress(bytes(4000))
    return (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + extra + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")
    )


def _bomb(side: int) -> bytes:
    """A PNG of a few hundred kilobytes that decodes to ``side`` times ``side`` pixels of one bit."""
    packer = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    pixels = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _postscript(mark: Path) -> bytes:
    program = f"(%pipe%touch {mark}) (w) file closefile showpage"
    return f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n{program}\n%%EOF\n".encode()


def _gif(width: int, height: int) -> bytes:
    colours = bytes(6)
    image = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + colours + image * 3 + b"\x3b"


def _tiff(width: int, height: int) -> bytes:
    entries = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8),
               (277, 3, 1), (278, 4, height), (279, 4, width * height % 2**32)]  # fmt: skip
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + table + bytes(4)


PICTURES: dict[str, Callable[[Path], bytes]] = {
    "PostScript": _postscript,
    "a PNG without its palette": lambda mark: _png(32, 32, colour=3),
    "a PNG of 2^31 pixels a side": lambda mark: _png(2**31 - 1, 2**31 - 1),
    "a PNG of no width": lambda mark: _png(0, 32),
    "a PNG of a colour that is none": lambda mark: _png(32, 32, colour=9),
    "a PNG that decodes to 3 gigabytes": lambda mark: _bomb(56_000),
    "a PNG just below the limit": lambda mark: _bomb(8_000),
    "a PNG of one row": lambda mark: _png(1000, 1),
    "a PNG with a packed text": lambda mark: _png(
        32, 32, extra=_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200 * 2**20)))
    ),
    "a PNG with a packed profile": lambda mark: _png(
        32, 32, extra=_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(200 * 2**20)))
    ),
    "a GIF of an enormous screen": lambda mark: _gif(65535, 65535),
    "a GIF of no width": lambda mark: _gif(0, 0),
    "a TIFF of 4 gigabytes": lambda mark: _tiff(65535, 65535),
    "a TIFF that points nowhere": lambda mark: b"II*\0" + struct.pack("<I", 2**31),
    "a Windows metafile": lambda mark: b"\xd7\xcd\xc6\x9a" + bytes(200),
    "FITS": lambda mark: b"SIMPLE  =                    T".ljust(80) * 40,
    "a PDF": lambda mark: b"%PDF-1.4\n" + bytes(100),
    "SVG": lambda mark: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="/etc/passwd"/></svg>',
    "PSD": lambda mark: b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 30000, 30000, 8, 3),
    "a BMP of negative height": lambda mark: b"BM" + struct.pack(
        "<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**30, -(2**30), 1, 24, 0, 0, 0, 0, 0, 0
    ),
    "a WebP of nothing": lambda mark: b"RIFF\x10\0\0\0WEBPVP8X" + bytes(14),
    "AVIF of nothing": lambda mark: b"\0\0\0\x1cftypavif" + bytes(50),
    "an icon": lambda mark: b"\0\0\1\0\1\0" + bytes(40),
    "PPM of enormous size": lambda mark: b"P6 100000 100000 255\n" + bytes(100),
}  # fmt: skip


def damage_picture(rng: random.Random, file: Path, box: Path, mark: Path) -> str:
    """Another picture, other bytes, or something else where a picture was."""
    chance = rng.random()
    if chance < 0.55:
        name = rng.choice(list(PICTURES))
        file.write_bytes(PICTURES[name](mark))
        return name
    return damage_bytes(rng, file) if chance < 0.85 else damage_place(rng, file, box)


def _sized(data: bytes, width: int, height: int) -> bytes:
    """An mp4 whose description of the pictures claims another size."""
    at = data.index(b"avc1", data.index(b"stsd")) + 28
    return data[:at] + struct.pack(">HH", width, height) + data[at + 4 :]


def _timed(data: bytes, scale: int) -> bytes:
    at = data.index(b"mdhd") + 16
    return data[:at] + struct.pack(">I", scale) + data[at + 4 :]


CLIPS: dict[str, Callable[[bytes, Path], bytes]] = {
    "a playlist": lambda data, box: f"#EXTM3U\n#EXTINF:1,\n{box}/outside/canary.txt\n".encode(),
    "a playlist with a binary byte": lambda data, box: b"#EXTM3U\n\1\n#EXTINF:1,\nfile:///etc/passwd\n",
    "a list of files": lambda data, box: b"ffconcat version 1.0\n\1\nfile /etc/passwd\n",
    "a playlist behind a tag": lambda data, box: b"ID3\4\0\0\0\0\0\0#EXTM3U\nfile:///etc/passwd\n",
    "a description of streams": lambda data, box: b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
    "enormous pictures": lambda data, box: _sized(data, 65535, 65535),
    "pictures of no size": lambda data, box: _sized(data, 0, 0),
    "no time scale": lambda data, box: _timed(data, 0),
    "an enormous time scale": lambda data, box: _timed(data, 2**32 - 1),
    "a GIF of an enormous screen": lambda data, box: _gif(65535, 65535),
    "a GIF of 20000 pixels a side": lambda data, box: _gif(20_000, 20_000),
    "a picture": lambda data, box: _png(32, 32),
    "an AVI of nothing": lambda data, box: b"RIFF\xff\xff\0\0AVI LIST" + bytes(300),
    "Matroska of nothing": lambda data, box: b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\xff" + bytes(100),
    "a broken box": lambda data, box: data[:4] + b"ftyp" + b"\0\0\0\3moov" + data[20:],
    "an index alone": lambda data, box: data[: data.index(b"mdat") - 4],
    "one kind of box a million times": lambda data, box: struct.pack(">I4s", 8, b"free") * 1_000_000,
    "text": lambda data, box: b"these are not the frames\n" * 100,
}


def damage_clip(rng: random.Random, file: Path, box: Path) -> str:
    """Another clip, other bytes, or something else where a clip was."""
    chance = rng.random()
    if chance < 0.5:
        name = rng.choice(list(CLIPS))
        file.write_bytes(CLIPS[name](file.read_bytes(), box))
        return name
    return damage_bytes(rng, file) if chance < 0.85 else damage_place(rng, file, box)
