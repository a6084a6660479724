"""Paths of all files and folders of a project, relative to its root."""

from __future__ import annotations

from pathlib import Path

DATA = Path("data")
PREPARED = Path("prepared")
REPORTS = Path("reports")
RUNS = Path("runs")
LOCK = RUNS / "lock"
MODELS = Path("models")
CHECKPOINTS = Path(".checkpoints")
SAMPLE = Path("src/befriend/sample")

VALIDATION = REPORTS / "validation.json"
VALIDATION_REPORT = REPORTS / "validation" / "report.md"
DATA_DOCS = REPORTS / "data_docs" / "index.html"
METRICS = REPORTS / "metrics.json"
FINGERPRINT = REPORTS / "evaluation" / "fingerprint.json"
EVALUATION_REPORT = REPORTS / "evaluation" / "report.md"
PREDICTIONS = REPORTS / "predictions"
TWO_TOWER_CURVES = REPORTS / "training" / "two_tower"
STU_CURVES = REPORTS / "training" / "stu"
TWO_TOWER = MODELS / "two_tower"
STU = MODELS / "stu"
RANKER = MODELS / "ranker"
CLUSTERS = MODELS / "clusters"
TOKENS = MODELS / "tokens"
TEXT = MODELS / "text"
TRAINED = (TEXT, TOKENS, TWO_TOWER, STU, RANKER, CLUSTERS)
REGISTRY = MODELS / "registry"
CHAMPION = MODELS / "champion"
DRIFT = RUNS / "drift"
GATE = RUNS / "gate"
TINY = RUNS / "tiny"
LISTS = RUNS / "lists.parquet"
LISTS_OF = RUNS / "lists" / "champion.json"
TEXT_DEMO = RUNS / "text_demo"
TEXT_CACHE = Path(".cache/text")
TEXT_TOWERS = TEXT / "towers"
TEXT_METRICS = REPORTS / "text.json"
TEXT_REPORT = REPORTS / "text" / "report.md"
TOKEN_METRICS = REPORTS / "tokens.json"
CLUSTER_METRICS = REPORTS / "clusters.json"
PAGE = REPORTS / "report" / "index.html"
MODEL_CARD = PAGE.with_name("model_card.md")
CLUSTER_REPORT = REPORTS / "clusters" / "report.md"
TOKEN_REPORT = REPORTS / "tokens" / "report.md"


def parts_of(lists: Path) -> Path:
    """The folder that holds the finished blocks of a file of lists while it is being written."""
    return lists.with_name(f"{lists.name}.parts")
