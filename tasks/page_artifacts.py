"""Helpers for Prefect artifacts: reports without images, links to files, and JSON files of the last commit."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact

_IMAGE = re.compile(r"!\[([^]]*)\]\(([^)]+)\)")


def without_images(report: Path) -> str:
    """A Markdown report with the title and path of each image instead of the image, which Prefect cannot show."""
    text = report.read_text(encoding="utf-8")
    return _IMAGE.sub(lambda image: f"*Figure: {image[1]}, in `{report.parent / image[2]}`*", text)


def publish_link(path: Path, key: str, text: str) -> None:
    """Publishes a link to a file, and its address as text, because browsers do not open file:// links of web pages."""
    address = path.resolve().as_uri()
    create_link_artifact(address, link_text=text, key=key, description=f"{text}: {address}")


def read_committed(path: Path) -> dict[str, Any] | None:
    """Content of a JSON file in the last commit; None if the commit does not have it, or without a git checkout."""
    try:
        shown = subprocess.run(["git", "show", f"HEAD:./{path}"], capture_output=True, check=True, timeout=30)
        return json.loads(shown.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
