"""The palette and style of all figures, still or interactive, and a helper that draws and saves a still one.

The colours are those of Okabe and Ito (2008), which colour-blind readers can distinguish. Matplotlib is imported when
the first picture is drawn, so that commands which draw nothing do not pay for the import.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from befriend import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 110


@dataclass(frozen=True)
class Palette:
    """The colours of figures on a light or a dark background, as #rrggbb."""

    ink: str
    """of text and of marks without a series"""
    muted: str
    """of labels of axes"""
    line: str
    """of grids and axes"""
    background: str
    series: tuple[str, ...]
    """of the series of a figure, in order; the first is the accent colour, the second that of warnings"""
    neutral: str
    """of what is shown for comparison only"""


LIGHT = Palette(
    ink="#1b1f24",
    muted="#57606a",
    line="#d8dee4",
    background="#ffffff",
    series=("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442", "#000000"),
    neutral="#7A7A7A",
)
DARK = Palette(
    ink="#e6e8eb",
    muted="#9aa4b0",
    line="#343b44",
    background="#14181d",
    series=("#56B4E9", "#E69F00", "#2FC79B", "#E3A5C8"),
    neutral="#9A9A9A",
)


def group_colours(num_groups: int) -> list[str]:
    """A colour, as #rrggbb, for each of many groups: consecutive groups get distant hues.

    Beyond a few dozen groups, some colours look alike. Use them where position also separates the groups, as on a map.

    >>> group_colours(2)
    ['#ae2929', '#49d472']
    """
    golden_angle, saturation, lightnesses = 137.508, 0.62, (0.42, 0.56, 0.50)
    rgb = (
        colorsys.hls_to_rgb(k * golden_angle % 360 / 360, lightnesses[k % len(lightnesses)], saturation)
        for k in range(num_groups)
    )
    return ["#" + "".join(f"{round(255 * channel):02x}" for channel in colour) for colour in rgb]


@contextmanager
def saved_figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Yields an empty Matplotlib figure, and writes it atomically to `path` when the block ends without an error.

    Draw within the block, as the style applies only there. Equal figures give equal bytes.
    path: its suffix is the format, such as .png; width, height: in inches.
    """
    import matplotlib as mpl
    from matplotlib import rcsetup
    from matplotlib.figure import Figure

    style = {
        "font.size": 8,
        "axes.prop_cycle": rcsetup.cycler("color", LIGHT.series),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titleweight": "bold",
        "axes.edgecolor": LIGHT.muted,
        "axes.labelcolor": LIGHT.ink,
        "hatch.color": LIGHT.background,
        "legend.frameon": False,
        "lines.linewidth": 1.2,
        "text.color": LIGHT.ink,
        "xtick.color": LIGHT.muted,
        "ytick.color": LIGHT.muted,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")  # not pyplot's: it keeps state between figures
        yield figure
        with files.atomic(path) as temporary:
            figure.savefig(temporary, dpi=DOTS_PER_INCH, metadata={"Software": None})
