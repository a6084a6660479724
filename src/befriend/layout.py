"""The paths of the files and folders of a project, relative to its root."""

from __future__ import annotations

from pathlib import Path

DATA = Path("data")
PREPARED = Path("prepared")
REPORTS = Path("reports")
RUNS = Path("runs")
STAGE_LOCK = RUNS / "lock"
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
MODEL_FOLDERS = (TEXT, TOKENS, TWO_TOWER, STU, RANKER, CLUSTERS)
REGISTRY = MODELS / "registry"
CHAMPION = MODELS / "champion"
DRIFT = RUNS / "drift"
GATE = RUNS / "gate"
TINY_LOG = RUNS / "tiny"  # a small simulated log
LISTS = RUNS / "lists.parquet"
LISTS_OPTIONS = RUNS / "lists" / "champion.json"  # with which model and options LISTS was made
TEXT_DEMO = RUNS / "text_demo"
TEXT_CACHE = Path(".cache/text")
TEXT_TOWERS = TEXT / "towers"
TEXT_METRICS = REPORTS / "text.json"
TEXT_REPORT = REPORTS / "text" / "report.md"
TOKEN_METRICS = REPORTS / "tokens.json"
CLUSTER_METRICS = REPORTS / "clusters.json"
REPORT_PAGE = REPORTS / "report" / "index.html"
MODEL_CARD = REPORT_PAGE.with_name("model_card.md")
CLUSTER_REPORT = REPORTS / "clusters" / "report.md"
TOKEN_REPORT = REPORTS / "tokens" / "report.md"


def list_blocks_folder(lists: Path) -> Path:
    """The folder for the finished blocks of a file of lists, while the other blocks are computed."""
    return lists.with_name(f"{lists.name}.parts")
