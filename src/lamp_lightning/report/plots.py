"""The plots of a comparison: each measure with its spread, consistency against motion, values over frames."""

from __future__ import annotations

import matplotlib

from lamp_lightning.report.comparison import Comparison
from lamp_lightning.report.curves import over_frames
from lamp_lightning.report.dots import dots
from lamp_lightning.report.drawing import STYLE, Plot
from lamp_lightning.report.scatter import scatter
from lamp_lightning.report.statistics import summary


def plots(c: Comparison) -> list[Plot]:
    """All that the results allow: deciding measures first."""
    with matplotlib.rc_context(STYLE):
        measures = sorted(
            c.measures, key=lambda m: c.deciding.index(m.name) if m.name in c.deciding else len(c.deciding)
        )
        made = [dots(c, m) for m in measures if sum(summary(c, e, m) is not None for e in c.methods) > 1]
        for measure in measures:
            if c.moves_by and measure.only_moving:
                made += scatter(c, c.measure(c.moves_by), measure)
        made += [over_frames(c, m) for m in measures if any(m.name in r.over_frames for r in c.results)]
    return made
