"""What the programs here share beside `lamp_lightning.benchmark`: options, and pages that they fill."""

from __future__ import annotations

import argparse
from pathlib import Path

from lamp_lightning.runtime.runs import write_text


def parser(description: str | None) -> argparse.ArgumentParser:
    """For a program that is described by its docstring and writes into `docs/`."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--docs", type=Path, default=Path("docs"), help="where the page and its pictures go")
    return made


def fill(page: Path, part: str, text: str | list[str]) -> None:
    """Write a part of a page between its two markers, which it gets if it has none; the rest is kept."""
    begin, end = f"<!-- {part} -->", f"<!-- end of {part} -->"
    content = page.read_text(encoding="utf-8") if page.exists() else f"# {page.stem.capitalize()}\n"
    if begin not in content:
        content += f"\n{begin}\n{end}\n"
    before, _, rest = content.partition(begin)
    if end not in rest:
        raise SystemExit(f"{page} lacks {end} after {begin}.")
    text = text if isinstance(text, str) else "\n".join(text)
    write_text(page, f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}")
