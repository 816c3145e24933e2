"""LAMP beside its rivals and without each of its parts, on a UNet and on a transformer: the tables and
pictures of docs/comparisons.md, and its main columns in docs/results.md.

    python benchmarks/comparisons.py             # all suites: hours on two cores
    python benchmarks/comparisons.py baselines   # one of them
    python benchmarks/comparisons.py plus "entries=[plus,plus_third,neither]" "seeds=[0]"   # a part of one

Calls `python -m lamp_lightning.benchmark` for each suite, which goes on where it was stopped and does nothing
anew that is finished, and copies what it found into the page.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pages import fill, parser

from lamp_lightning.benchmark import __main__ as benchmark
from lamp_lightning.data.video import contact_sheet
from lamp_lightning.report import Comparison
from lamp_lightning.report.comparison import TRUTH
from lamp_lightning.report.statistics import summary
from lamp_lightning.runtime.config import composed

SUITES = ("baselines", "ablations", "transformer")  # those that are run in full
PLOTS = ("moving_error_ratio", "motion_fidelity", "moving_error_ratio_over_frames")
SHORT = ("moving_error_ratio", "motion_fidelity", "frame_consistency", "clip_score")
NEVER_PAINTED = "frozen"  # needs no row in a contact sheet


def section(found: Comparison, folder: Path, images: Path) -> str:
    """A suite's part of the page: how it was measured, its tables, plots and contact sheets."""
    name = folder.name
    facts = "; ".join(f"{key}: {value}" for key, value in found.settings.items() if key != "command")
    tables = (folder / "table.md").read_text(encoding="utf-8").strip()
    pictures = []
    for plot in PLOTS:
        source = folder / "plots" / f"{plot}.png"
        if source.exists():
            target = images / f"{name}_{plot}.png"
            shutil.copyfile(source, target)
            pictures.append(f"![{plot.replace('_', ' ')}](images/{target.name})")
    for motion in found.motions:
        target = images / f"{name}_{motion}.png"
        contact_sheet(rows(found, motion), target, title=motion.replace("_", " "))
        pictures.append(f"![{motion.replace('_', ' ')}](images/{target.name})")
    return "\n\n".join([f"`{found.settings['command']}`", tables, f"{facts}.", *pictures])


def in_short(found: Comparison) -> str:
    """The means that decide, for docs/results.md."""
    measures = [found.measure(name) for name in SHORT]
    lines = [
        f"`{found.settings['command']}`",
        "",
        "| method | " + " | ".join(m.heading for m in measures) + " |",
    ]
    lines.append("|---|" + "---:|" * len(measures))
    for entry in found.entries:
        values = [summary(found, entry, measure) for measure in measures]
        numbers = ["" if v is None else m.number(v.mean) for m, v in zip(measures, values, strict=True)]
        lines.append(f"| {entry.label} | " + " | ".join(numbers) + " |")
    return "\n".join(lines)


def rows(found: Comparison, motion: str) -> list[tuple[str, Any]]:
    """The first scene of a motion by every method with its first seed, below the truth."""
    made = []
    entries = sorted(found.entries, key=lambda entry: entry.name != TRUTH)
    for entry in entries:
        results = [r for r in found.results if (r.entry, r.motion) == (entry.name, motion)]
        if not results or entry.name == NEVER_PAINTED:
            continue
        first = min(results, key=lambda r: r.seed or 0)
        made.append((entry.label, first.videos[0].video.read()))
    return made


def main() -> None:
    asked = parser(__doc__)
    asked.add_argument("suites", nargs="*", help=f"and overrides of benchmark; none: {', '.join(SUITES)}")
    options = asked.parse_args()
    overrides = [each for each in options.suites if "=" in each]
    images = options.docs / "images"
    images.mkdir(parents=True, exist_ok=True)
    for name in [each for each in options.suites if "=" not in each] or SUITES:
        if status := benchmark.main([f"suite={name}", *overrides]):
            raise SystemExit(status)
        folder = Path(composed("benchmark", [f"suite={name}", *overrides]).out)
        found = Comparison.load(folder / "comparison.json")
        fill(options.docs / "comparisons.md", name, section(found, folder, images))
        fill(options.docs / "results.md", f"{name} in short", in_short(found))


if __name__ == "__main__":
    main()
