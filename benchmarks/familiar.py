"""Whether the tiny model knows what it is given: how far drawn stills and real clips are from its world.

    python benchmarks/familiar.py                      # held-out drawn stills: docs/artists.md
    python benchmarks/familiar.py --clips data/fire    # and the clips of a folder, printed only

`metrics.familiar.strangeness` is measured; above 1 a picture is far.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pages import fill, parser

from lamp_lightning.data.clips import list_clips, load_clip
from lamp_lightning.metrics.familiar import strangeness
from lamp_lightning.toyworld.pretraining.stages import held_out_pictures
from lamp_lightning.toyworld.render import CLIP_FRAMES, render_still


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--stills", type=int, default=1024, help="held-out drawn stills")
    options.add_argument("--clips", type=Path, help="a folder of clips")
    args = options.parse_args()
    scenes = held_out_pictures(args.stills)
    times = np.random.default_rng(0).uniform(0, CLIP_FRAMES - 1, len(scenes))
    drawn = [render_still(scene, t=t)[None] for scene, t in zip(scenes, times, strict=True)]
    values = np.array(strangeness(drawn))
    far = 100 * float((values > 1).mean())
    line = (
        f"Of {len(values)} held-out drawn stills the median is {np.median(values):.2f}, 99 % are below "
        f"{np.quantile(values, 0.99):.2f}, and {far:.1f} % are above 1 (`python benchmarks/familiar.py`)."
    )
    print(line)
    fill(args.docs / "artists.md", "familiar", line)
    for file in list_clips(args.clips) if args.clips else ():
        (value,) = strangeness([load_clip(file, file.stem).frames])
        print(f"{file.name}: {value:.2f}")


if __name__ == "__main__":
    main()
