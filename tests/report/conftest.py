"""A small project on which every stage has run, the report included."""

from __future__ import annotations

from pathlib import Path

import pytest

from befriend.stages import report
from tests.projects import PARAMS


@pytest.fixture(scope="module")
def project(evaluated_project: Path) -> Path:
    report.run(PARAMS, evaluated_project)
    return evaluated_project
