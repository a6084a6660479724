"""What publishers share: reports as Prefect's page can show them, links, and files as of the last commit."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact

_IMAGE = re.compile(r"!\[([^]]*)\]\(([^)]+)\)")


def readable(report: Path) -> str:
    """The report as Prefect's page can show it: it serves no pictures, so each is named instead."""
    text = report.read_text(encoding="utf-8")
    return _IMAGE.sub(lambda image: f"*Figure: {image[1]}, in `{report.parent / image[2]}`*", text)


def link(path: Path, key: str, text: str) -> None:
    """A link to a file of the project. Browsers open these only by hand, so the address is readable too."""
    address = path.resolve().as_uri()
    create_link_artifact(address, link_text=text, key=key, description=f"{text}: {address}")


def committed(path: Path) -> dict[str, Any] | None:
    """A JSON file as of the last commit; None if it is not in it, or this is no git checkout."""
    try:
        shown = subprocess.run(["git", "show", f"HEAD:./{path}"], capture_output=True, check=True, timeout=30)
        return json.loads(shown.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
