"""Compares the figures of two runs on the same inputs, such as those of two machines.

Equal inputs give equal bytes on processors that round alike. Elsewhere, training takes a slightly other path, as it
does with another seed. So two such runs agree if no figure differs by more than seeds do. How much seeds differ is
measured once for a log (`bench/seeds.py`); for a log without that measurement, the confidence interval of the figure
stands in for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MAX_DEVIATIONS = 4.0
"""two runs agree if they differ by at most this many standard deviations of a difference between two seeds"""


@dataclass(frozen=True)
class FigureDifference:
    """How far one figure of a run is from the same figure of another run."""

    name: str
    """list/regime/model, as in reference.json"""
    value: float
    reference: float
    tolerance: float
    """the largest difference that noise explains"""

    @property
    def difference(self) -> float:
        return abs(self.value - self.reference)

    @property
    def is_within(self) -> bool:
        return self.difference <= self.tolerance

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4f}, committed {self.reference:.4f}, noise {self.tolerance:.4f}"


def compare_figures(
    figures: Mapping[str, list[float]], reference: Mapping[str, list[float]], seed_deviations: Mapping[str, float]
) -> list[FigureDifference]:
    """The difference of each figure that both runs have, the largest in units of its tolerance first.

    figures, reference: name -> value, and the bounds of its confidence interval, as in reference.json; seed_deviations:
    name -> standard deviation of the figure between seeds, empty if it is not known for the log.
    """
    differences = [
        FigureDifference(name, value, reference[name][0], _tolerance(reference[name], seed_deviations.get(name)))
        for name, (value, _, _) in figures.items()
        if name in reference
    ]
    return sorted(differences, key=lambda d: (d.is_within, -d.difference / max(d.tolerance, 1e-9), d.name))


def _tolerance(reference: list[float], seed_deviation: float | None) -> float:
    """The largest difference that noise explains: two seeds differ by sqrt(2) standard deviations."""
    _, low, high = reference
    return (high - low) / 2 if seed_deviation is None else MAX_DEVIATIONS * 2**0.5 * seed_deviation
