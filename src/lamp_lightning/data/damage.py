"""What a file is and whether it is all there, judged from its own headers without decoding anything.

A decoder that meets a truncated file returns fewer frames, or garbage, or hangs.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

_MATROSKA = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp")
# How files of video formats begin: Matroska, AVI, GIF, Flash, Ogg, Windows Media, MPEG program and transport
# streams. Of others a decoder might make a playlist, which sends it to any file or address.
_VIDEOS = (
    _MATROSKA,
    b"RIFF",
    b"GIF8",
    b"FLV",
    b"OggS",
    b"\x30\x26\xb2\x75",
    b"\0\0\1\xba",
    b"\0\0\1\xb3",
    b"G",
)


def describe_content(path: Path) -> str | None:
    """Name what is evidently no video: an empty file, text, a web page, a Git LFS pointer, a picture."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "an empty file (0 bytes)"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the video itself (`git lfs pull` fetches it)"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "a web page (probably a failed download)"
    if head.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        return "a picture"
    if not any(byte < 9 or 13 < byte < 32 for byte in head):
        return "plain text"
    if not (head.startswith(_VIDEOS) or head[4:8] in _BOXES):
        return "data of no video format that is read here"
    return None


def find_truncation(path: Path) -> str | None:
    """Say how the file falls short of what its container announces, or None where nothing is missing."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        file.seek(0)
        if head[4:8] in _BOXES:
            return _mp4(file, size)
        if head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"WEBP"):
            return _riff(head, size)
        if head[:4] == _MATROSKA:
            return _matroska(file, size)
        if head[:4] == b"GIF8":
            return _gif(file)
    return None


def is_animated_webp(path: Path) -> bool:
    """Whether a webp says that it is an animation (RFC 9649, section 2.7); False for what cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(21)
    except OSError:
        return False
    extended = head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X"
    return extended and len(head) == 21 and bool(head[20] & 2)


def _short(announced: int, size: int) -> str | None:
    if announced <= size:
        return None
    return f"its header announces {announced:,} bytes, found {size:,}"


def _mp4(file: BinaryIO, size: int) -> str | None:
    """Boxes of ISO/IEC 14496-12, section 4.2: size, type, and a 64-bit size where the first is 1."""
    position, has_index = 0, False
    while position + 8 <= size:
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"\0\0\0\0":  # padding behind the last box
            break
        if length == 1:
            length = struct.unpack(">Q", file.read(8).ljust(8, b"\0"))[0]
        elif length == 0:  # the last box, up to the end of the file
            length = size - position
        if length < 8:
            return f"a broken box at byte {position:,}"
        has_index |= kind in (b"moov", b"moof")
        position += length
        if position > size:
            return _short(position, size)
    return None if has_index else "its index (the moov box, usually written last) is missing"


def _riff(head: bytes, size: int) -> str | None:
    length = struct.unpack("<I", head[4:8])[0]
    return None if length in (0, 0xFFFFFFFF) else _short(length + 8, size)


def _matroska(file: BinaryIO, size: int) -> str | None:
    """EBML (RFC 8794): header element, then the segment, whose length is unknown in a live recording."""
    position = 0
    while position < size:
        file.seek(position)
        element = file.read(4)
        first = file.read(1)
        if not first:
            break
        width = 9 - first[0].bit_length()
        if width > 8:
            return f"a broken element at byte {position:,}"
        value = int.from_bytes(bytes([first[0] & (0xFF >> width)]) + file.read(width - 1), "big")
        if element == _SEGMENT:
            unknown = value == (1 << 7 * width) - 1
            return None if unknown else _short(position + 4 + width + value, size)
        if element != _MATROSKA:
            break
        position += 4 + width + value
    return "its video segment is missing"


def _gif(file: BinaryIO) -> str | None:
    """GIF89a: header, then blocks up to the trailer byte 0x3B."""
    file.seek(10)
    packed = file.read(3)
    _skip_colours(file, packed[:1])
    while block := file.read(1):
        if block == b"\x3b":
            return None
        if block == b"\0":  # padding that some programs leave between blocks
            continue
        if block == b"\x21":
            file.seek(1, os.SEEK_CUR)
        elif block == b"\x2c":
            descriptor = file.read(9)
            _skip_colours(file, descriptor[8:9])
            file.seek(1, os.SEEK_CUR)
        else:
            return f"a broken block at byte {file.tell() - 1:,}"
        while (length := file.read(1)) not in (b"", b"\0"):
            file.seek(length[0], os.SEEK_CUR)
    return "its end mark is missing"


def _skip_colours(file: BinaryIO, packed: bytes) -> None:
    if packed and packed[0] & 0x80:
        file.seek(3 << ((packed[0] & 7) + 1), os.SEEK_CUR)
