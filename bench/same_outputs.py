"""Compares all that two runs wrote, value by value, under a map of old names to new ones.

    python bench/same_outputs.py OLD NEW [--names bench/names.json]

OLD and NEW are project folders after `dvc repro`. Tensors have to be equal in dtype, shape and every bit, tables in
every cell, JSON in every value, CSV and text in every character. Pages and pictures are left out: look at them. The map
has `files` (paths), `tensors` (regular expressions on names of weights), `keys` (of any JSON), a section for each file
with keys of its own, `values` (regular expressions on texts in JSON), `columns` (of tables) and `texts` (CSV cells).
Prints a line for each kind of file, and every difference; fails if there is any.
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
LOOKED_AT = (
    *("reports/data_docs", "reports/report", ".png", ".svg", ".html", ".md"),
    *("reports/evaluation/evaluated.json", "reports/evaluation/fingerprint.json"),
)
"""what a person has to look at: pages, pictures and prose; and a digest of files of weights, which hold tensor names"""

Names = dict[str, dict[str, str]]


def outputs(root: Path) -> list[str]:
    """Paths of the files to compare, relative to the project."""
    files = (path for folder in FOLDERS for path in (root / folder).rglob("*") if path.is_file())
    paths = (path.relative_to(root).as_posix() for path in files if "registry" not in path.parts)
    return sorted(path for path in paths if not path.startswith(LOOKED_AT) and not path.endswith(LOOKED_AT))


def renamed(name: str, patterns: dict[str, str]) -> str:
    for pattern, new in patterns.items():
        name = re.sub(pattern, new, name)
    return name


def tensors_differ(old: Path, new: Path, names: Names) -> str:
    before = {renamed(name, names["tensors"]): value for name, value in load_file(old).items()}
    after = load_file(new)
    if before.keys() != after.keys():
        return f"names differ: {sorted(before.keys() ^ after.keys())}"
    for name, value in before.items():
        other = after[name]
        same = value.dtype == other.dtype and value.shape == other.shape
        if not (same and torch.equal(value.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))):
            return f"{name} differs"
    return ""


def tables_differ(old: Path, new: Path, names: Names) -> str:
    before, after = pl.read_parquet(old), pl.read_parquet(new)
    before = before.rename({name: names["columns"].get(name, name) for name in before.columns})
    if before.schema != after.schema:
        return f"schemas differ: {before.schema} and {after.schema}"
    return "" if before.equals(after, null_equal=True) else "values differ"


def _renamed_json(value: Any, keys: dict[str, str], values: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {keys.get(key, key): _renamed_json(item, keys, values) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed_json(item, keys, values) for item in value]
    return renamed(value, values) if isinstance(value, str) else value


def json_differs(old: Path, new: Path, names: Names) -> str:
    own_keys = names.get("/".join(new.parts[-3:]), {}) | names.get("/".join(new.parts[-2:]), {})
    before = _renamed_json(json.loads(old.read_text()), names["keys"] | own_keys, names["values"])
    after = json.loads(new.read_text())
    if before == after:
        return ""
    if isinstance(before, dict) and isinstance(after, dict):
        return f"differs at {sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))}"
    return "values differ"


def text_differs(old: Path, new: Path, names: Names) -> str:
    before, after = old.read_text(), new.read_text()
    if old.suffix in (".csv", ".tsv"):
        mark = "," if old.suffix == ".csv" else "\t"
        cells = names["columns"] | names["texts"]
        rows = [mark.join(cells.get(cell, cell) for cell in line.split(mark)) for line in before.splitlines()]
        before, after = "\n".join(rows), "\n".join(after.splitlines())
    return "" if before == after else "text differs"


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
    before = {names["files"].get(path, path): path for path in outputs(arguments.old)}
    after = set(outputs(arguments.new))
    differences = [f"{path}: only in one of the two" for path in sorted(before.keys() ^ after)]
    equal: Counter[str] = Counter()
    for path in sorted(before.keys() & after):
        old, new = arguments.old / before[path], arguments.new / path
        difference = COMPARE.get(new.suffix, text_differs)(old, new, names)
        if difference:
            differences.append(f"{path}: {difference}")
        else:
            equal[new.suffix] += 1
    for suffix, count in sorted(equal.items()):
        print(f"{suffix:13} {count:5} equal")
    print("\n".join(differences) or "no difference")
    sys.exit(bool(differences))


if __name__ == "__main__":
    main()
