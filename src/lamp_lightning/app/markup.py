"""Pieces of the page as HTML. Every text in them is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from lamp_lightning.app.clips import Seen
from lamp_lightning.app.jobs import Job, Jobs
from lamp_lightning.app.progress import progress_of, said


def url(path: Path) -> str:
    """Where the page's server gives out a file, as far as it does."""
    stamp = path.stat().st_mtime_ns if path.exists() else 0
    return f"gradio_api/file={quote(str(path))}?v={stamp}"


def note(text: str, kind: str = "quiet") -> str:
    """A short paragraph."""
    return f'<p class="ll-note ll-{kind}">{escape(text)}</p>'


def video(path: Path, caption: str, *, download: bool = True) -> str:
    """A video that plays again and again, with what can be downloaded of it."""
    links = ""
    if download:
        kinds = [each for each in (path, path.with_suffix(".gif")) if each.is_file()]
        links = " ".join(link(each, each.suffix[1:]) for each in kinds)
    return (
        f'<figure class="ll-video"><video src="{escape(url(path))}" controls loop muted autoplay playsinline '
        f'aria-label="{escape(caption)}"></video><figcaption><span>{escape(caption)}</span>'
        f"<span>{links}</span></figcaption></figure>"
    )


def link(path: Path, label: str, name: str | None = None) -> str:
    """A link that downloads a file."""
    name = escape(name or path.name)
    return f'<a class="ll-link" href="{escape(url(path))}" download="{name}">{escape(label)}</a>'


def row(pieces: Iterable[str]) -> str:
    """Pieces beside each other, or below each other on a narrow screen."""
    return f'<div class="ll-row">{"".join(pieces)}</div>'


def picture(path: Path, alt: str) -> str:
    """A picture as wide as the page."""
    return f'<img class="ll-sheet" src="{escape(url(path))}" alt="{escape(alt)}">'


def bar(share: float | None) -> str:
    """A progress bar; without a share it only shows that something is done."""
    if share is None:
        return '<div class="ll-bar ll-unknown" role="progressbar"><i></i></div>'
    percent = round(100 * share)
    return (
        f'<div class="ll-bar" role="progressbar" aria-valuenow="{percent}" aria-valuemin="0" '
        f'aria-valuemax="100"><i style="width:{percent}%"></i></div>'
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A small table."""
    head = "".join(f"<th>{escape(each)}</th>" for each in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in cells) + "</tr>" for cells in rows)
    return f'<div class="ll-table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def clips(found: Seen, root: Path) -> str:
    """The contact sheet of a motion, what to mind, and the facts of each clip."""
    alt = f"{len(found.rows)} clips as the model will see them"
    advice = "".join(note(text, "warn") for text in found.advice)
    facts = table(found.heads, found.rows)
    said = f"{alt}. When you see the motion in each row, go on to the page Tune."
    return (
        f"{note(said)}{advice}{picture(root / found.sheet, alt)}"
        f"<details><summary>Facts</summary>{facts}</details>"
    )


def work(jobs: Jobs) -> str:
    """What is being done, what waits and what was stopped; empty where there is nothing."""
    lines = []
    order = {"running": 0, "waiting": 1}
    for job in sorted(jobs.all(), key=lambda job: order.get(job.state, 2)):
        if not job.is_open:
            continue
        how_far = progress_of(job, jobs)
        head = f"<b>{escape(job.request.title)}</b><span>{escape(how_far.words)}</span>"
        body = bar(how_far.share) if job.state == "running" else ""
        if job.message:
            body += note(job.message, "fault" if job.state == "failed" else "quiet")
        lines.append(f'<li class="ll-{job.state}"><div class="ll-head">{head}</div>{body}</li>')
    return f'<ul class="ll-work">{"".join(lines)}</ul>' if lines else ""


def diagnosis(said: Sequence[str]) -> str:
    """What came of tuning, in words."""
    if not said:
        return ""
    verdict, *sentences = said
    kind = "quiet" if verdict == "good" else "warn"
    return f'<p class="ll-note ll-{kind}"><b>{escape(verdict)}</b>. {escape(" ".join(sentences))}</p>'


def doubts(job: Job, jobs: Jobs) -> str:
    """What a job's command warned of."""
    return "".join(note(text, "warn") for text in said(job, jobs))
