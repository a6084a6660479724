"""Training curves for `dvc plots` and `dvc metrics`, written through DVCLive.

Files of the folder: `plots/metrics/<name>.tsv` with one row per epoch, `plots/loss.tsv` with several rows per epoch,
and `metrics.json` with the metrics of the best epoch. All are rewritten from the whole history each time, so they have
the same bytes whether or not the training was interrupted.
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
    """Replaces the folder of curves.

    history: at least one row, one per epoch, name -> value; "epoch" counts from 1, and a "/" in a name makes a
    subfolder. losses: the rows of the loss curve, with "step", counted from 1 over all epochs, and "loss". best_epoch:
    from 1.
    """
    os.environ["DVC_STUDIO_OFFLINE"] = "true"  # sends no metrics to DVC Studio, a web service
    from dvclive.live import Live

    class FileWriter(Live):
        """DVCLive that writes files and does nothing else."""

        def _init_dvc(self) -> None:
            """Overridden to open no repository: DVCLive would initialise DVC in a repository that has only Git."""

    with files.atomic(folder) as temporary:
        live = FileWriter(dir=str(temporary), save_dvc_exp=False, dvcyaml=None, report=None)
        for row in history:
            _log_row(live, row, plot=True)
        _log_row(live, history[best_epoch - 1], plot=False)  # metrics.json has the row that was logged last
        live.make_summary()
        rows = [f"{row['step']:.0f}\t{row['loss']}" for row in losses]
        (temporary / LOSS_FILE).write_text("\n".join(["step\tloss", *rows, ""]), encoding="utf-8")


def _log_row(live: Live, row: dict[str, float], plot: bool) -> None:
    """Logs the metrics of an epoch. plot: also add them to the files in plots/."""
    live.step = int(row["epoch"])
    for name in sorted(row.keys() - {"epoch"}):
        live.log_metric(name, row[name], plot=plot)
