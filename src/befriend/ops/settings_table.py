"""`befriend settings`: prints every setting with its default and documentation."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from befriend.config import Params
from befriend.errors import CallError
from befriend.settings import describe_settings
from befriend.simulate.network_settings import SimulateSettings


def show(section: str | None) -> None:
    """Prints all settings of params.yaml and of the simulator, or those of one section. CallError if there is none."""
    rows = [*describe_settings(Params), *describe_settings(SimulateSettings, "simulate.")]
    sections = list(dict.fromkeys(name.split(".")[0] for name, _, _ in rows))
    if section is not None and section not in sections:
        raise CallError(f"there is no section {section}. Sections: {', '.join(sections)}.")
    table = Table("setting", "default", "what it does", box=None, header_style="bold")
    for name, default, documentation in rows:
        if section in (None, name.split(".")[0]):
            table.add_row(name, default, documentation)
    Console().print(table)
