"""Helpers for Prefect artifacts: reports without images, links to files, and JSON files of the last commit."""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact

from tasks.dvc_process import environment_bin
from tasks.reproduction import read_lock

_IMAGE = re.compile(r"!\[([^]]*)\]\(([^)]+)\)")


def without_images(report: Path) -> str:
    """A Markdown report with the title and path of each image instead of the image, which Prefect cannot show."""
    text = report.read_text(encoding="utf-8")
    return _IMAGE.sub(lambda image: f"*Figure: {image[1]}, in `{report.parent / image[2]}`*", text)


def publish_link(path: Path, key: str, text: str) -> None:
    """Publishes a link to a file, and its address as text, because browsers do not open file:// links of web pages."""
    address = path.resolve().as_uri()
    create_link_artifact(address, link_text=text, key=key, description=f"{text}: {address}")


@cache
def _cache_folder() -> Path:
    """The folder of DVC's cache, which may be shared by several checkouts."""
    command = [str(environment_bin() / "dvc"), "cache", "dir"]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip())


def read_committed_json(path: Path) -> dict[str, Any] | None:
    """Content of a JSON file of the run whose dvc.lock was committed last, from DVC's cache.

    None if the cache does not have it, as in a fresh clone, or without a git checkout.
    """
    try:
        stages = read_lock()["stages"]
        (md5,) = (out["md5"] for stage in stages.values() for out in stage.get("outs", []) if out["path"] == str(path))
        return json.loads((_cache_folder() / "files/md5" / md5[:2] / md5[2:]).read_text(encoding="utf-8"))
    except (OSError, KeyError, subprocess.SubprocessError, ValueError):
        return None
