"""Training curves for `dvc plots` and `dvc metrics`, written through DVCLive.

The folder is always written anew from the whole history, so it holds the same bytes whether or not the training was
interrupted: `plots/metrics/<name>.tsv` with one row per epoch, `plots/loss.tsv` with several rows per epoch, and
`metrics.json` with the best epoch.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from befriend import files

if TYPE_CHECKING:
    from dvclive.live import Live

LOSS_FILE = "plots/loss.tsv"


def write_curves(
    folder: Path, history: list[dict[str, float]], losses: list[dict[str, float]], best_epoch: int
) -> None:
    """Replaces the folder.

    history: one row per epoch, name -> value, one of them "epoch" (from 1); names with "/" become subfolders. losses:
    rows of step (from 1) and loss. best_epoch: from 1.
    """
    os.environ["DVC_STUDIO_OFFLINE"] = "true"  # never send metrics to DVC Studio
    from dvclive.live import Live

    class Curves(Live):
        """DVCLive as a writer of files only."""

        def _init_dvc(self) -> None:
            """Opens no repository: DVCLive would ask Git for the revision, and turn a Git repository into a DVC one."""

    with files.atomic(folder) as temporary:
        live = Curves(dir=str(temporary), save_dvc_exp=False, dvcyaml=None, report=None)
        for row in history:
            _log(live, row, plot=True)
        _log(live, history[best_epoch - 1], plot=False)  # metrics.json keeps what was logged last
        live.make_summary()
        rows = [f"{row['step']:.0f}\t{row['loss']}" for row in losses]
        (temporary / LOSS_FILE).write_text("\n".join(["step\tloss", *rows, ""]), encoding="utf-8")


def _log(live: Live, row: dict[str, float], plot: bool) -> None:
    live.step = int(row["epoch"])
    for name in sorted(row.keys() - {"epoch"}):
        live.log_metric(name, row[name], plot=plot)
