"""The paths of the files and folders of a project, relative to its root, and what makes a folder a project."""

from __future__ import annotations

from pathlib import Path

from befriend.errors import CallError

PARAMS = Path("params.yaml")
PIPELINE = Path("dvc.yaml")
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
HEADLINE = REPORTS / "headline.json"
REFERENCE = REPORTS / "reference.json"
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
VERDICT = REPORT_PAGE.with_name("verdict.json")
CLUSTER_REPORT = REPORTS / "clusters" / "report.md"
TOKEN_REPORT = REPORTS / "tokens" / "report.md"


def list_blocks_folder(lists: Path) -> Path:
    """The folder for the finished blocks of a file of lists, while the other blocks are computed."""
    return lists.with_name(f"{lists.name}.parts")


def is_project(folder: Path) -> bool:
    """Whether a folder is the root of a project, or holds a run, which has a prepared log."""
    return any((folder / path).exists() for path in (PARAMS, PIPELINE, PREPARED))


def require_project(folder: Path = Path()) -> None:
    """Raises CallError if a folder is no project; the message names a folder above it that is one."""
    if is_project(folder):
        return
    if not folder.is_dir():
        raise CallError(f"there is no folder {folder}. Name the folder of a project, the one with {PARAMS}.")
    root = next((parent for parent in folder.resolve().parents if is_project(parent)), None)
    step = (
        f"Change to the project above it: cd {root}"
        if root is not None
        else f"Change to the folder of your project (cd FOLDER), the one with {PARAMS} and {PIPELINE}."
    )
    raise CallError(
        f"{folder.resolve()} is no befriend project: it has no {PARAMS}, no {PIPELINE} and no {PREPARED}/. {step}"
    )
