"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunOption = Annotated[
    Path | None,
    typer.Option(help="Folder of the run to use, `.` for the current run; by default the champion if there is one."),
]
ParamsOption = Annotated[Path, typer.Option("--params", help="The settings file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
PARAMS = Path("params.yaml")
