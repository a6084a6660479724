"""Compares all that two runs wrote, value by value, under a map of old names to new ones.

    python bench/same_outputs.py OLD NEW [--names bench/names.json]

OLD and NEW are project folders after `dvc repro`. Tensors have to be equal in dtype, shape and every bit, tables in
every cell, JSON in every value, CSV and text in every character. Pages and images are not compared; look at them
yourself. The map has `files` (paths), `tensors` (regular expressions on names of weights), `keys` (of any JSON), a
section for each file with keys of its own, `values` (regular expressions on texts in JSON), `columns` (of tables) and
`texts` (CSV cells). Prints a line for each kind of file, and every difference; fails if there is any.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import torch
from safetensors.torch import load_file

FOLDERS = ("prepared", "models", "reports")
EXCLUDED = (
    *("reports/data_docs", "reports/report", ".png", ".svg", ".html", ".md"),
    *("reports/evaluation/evaluated.json", "reports/evaluation/fingerprint.json"),
)
"""not compared: pages, pictures and prose, which you have to look at, and a digest that depends on names of tensors"""

Names = dict[str, dict[str, str]]


def outputs(root: Path) -> list[str]:
    """Paths of the files to compare, relative to the project."""
    files = (path for folder in FOLDERS for path in (root / folder).rglob("*") if path.is_file())
    paths = (path.relative_to(root).as_posix() for path in files if "registry" not in path.parts)
    return sorted(path for path in paths if not path.startswith(EXCLUDED) and not path.endswith(EXCLUDED))


def rename(name: str, patterns: dict[str, str]) -> str:
    for pattern, replacement in patterns.items():
        name = re.sub(pattern, replacement, name)
    return name


def tensors_differ(old_path: Path, new_path: Path, names: Names) -> str:
    old_value = {rename(name, names["tensors"]): value for name, value in load_file(old_path).items()}
    new_value = load_file(new_path)
    if old_value.keys() != new_value.keys():
        return f"names differ: {sorted(old_value.keys() ^ new_value.keys())}"
    for name, value in old_value.items():
        new_tensor = new_value[name]
        is_same_type = value.dtype == new_tensor.dtype and value.shape == new_tensor.shape
        if not (
            is_same_type and torch.equal(value.reshape(-1).view(torch.uint8), new_tensor.reshape(-1).view(torch.uint8))
        ):
            return f"{name} differs"
    return ""


def tables_differ(old_path: Path, new_path: Path, names: Names) -> str:
    old_value, new_value = pl.read_parquet(old_path), pl.read_parquet(new_path)
    old_value = old_value.rename({name: names["columns"].get(name, name) for name in old_value.columns})
    if old_value.schema != new_value.schema:
        return f"schemas differ: {old_value.schema} and {new_value.schema}"
    return "" if old_value.equals(new_value, null_equal=True) else "values differ"


def _renamed_json(value: Any, keys: dict[str, str], values: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {keys.get(key, key): _renamed_json(item, keys, values) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed_json(item, keys, values) for item in value]
    return rename(value, values) if isinstance(value, str) else value


def json_differs(old_path: Path, new_path: Path, names: Names) -> str:
    own_keys = names.get("/".join(new_path.parts[-3:]), {}) | names.get("/".join(new_path.parts[-2:]), {})
    old_value = _renamed_json(json.loads(old_path.read_text()), names["keys"] | own_keys, names["values"])
    new_value = json.loads(new_path.read_text())
    if old_value == new_value:
        return ""
    if isinstance(old_value, dict) and isinstance(new_value, dict):
        keys = old_value.keys() | new_value.keys()
        return f"differs at {sorted(key for key in keys if old_value.get(key) != new_value.get(key))}"
    return "values differ"


def text_differs(old_path: Path, new_path: Path, names: Names) -> str:
    old_value, new_value = old_path.read_text(), new_path.read_text()
    if old_path.suffix in (".csv", ".tsv"):
        mark = "," if old_path.suffix == ".csv" else "\t"
        cells = names["columns"] | names["texts"]
        rows = [mark.join(cells.get(cell, cell) for cell in line.split(mark)) for line in old_value.splitlines()]
        old_value, new_value = "\n".join(rows), "\n".join(new_value.splitlines())
    return "" if old_value == new_value else "text differs"


COMPARE: dict[str, Callable[[Path, Path, Names], str]] = {
    ".safetensors": tensors_differ,
    ".parquet": tables_differ,
    ".json": json_differs,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--names", type=Path, default=Path(__file__).with_name("names.json"))
    arguments = parser.parse_args()
    names: Names = json.loads(arguments.names.read_text())
    for folder in (arguments.old, arguments.new):
        if not (folder / "reports" / "metrics.json").is_file():
            parser.error(f"{folder} is no project with the results of a run")
    old_files = {names["files"].get(path, path): path for path in outputs(arguments.old)}
    new_files = set(outputs(arguments.new))
    differences = [f"{path}: only in one of the two" for path in sorted(old_files.keys() ^ new_files)]
    equal: Counter[str] = Counter()
    for path in sorted(old_files.keys() & new_files):
        old_path, new_path = arguments.old / old_files[path], arguments.new / path
        difference = COMPARE.get(new_path.suffix, text_differs)(old_path, new_path, names)
        if difference:
            differences.append(f"{path}: {difference}")
        else:
            equal[new_path.suffix] += 1
    for suffix, count in sorted(equal.items()):
        print(f"{suffix:13} {count:5} equal")
    print("\n".join(differences) or "no difference")
    sys.exit(bool(differences))


if __name__ == "__main__":
    main()
