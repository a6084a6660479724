"""How much the figures of the sample differ between seeds: the noise within which another machine reproduces them.

Runs the pipeline of the last commit once for each seed, each in a clone of its own, and writes the mean and the
standard deviation of every figure of reference.json to src/befriend/sample/seed_noise.json. A seed sets every random
choice of training: text towers, tokens, both models and the ranker. A run that is killed goes on where it stopped.

    python -m bench.seeds --seeds 6 --folder /tmp/seeds
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from befriend import files, layout
from tasks.reproduction import LOCAL

SEEDED = ("embed_text", "tokenize", "train_two_tower", "train_stu", "train_ranker")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--folder", type=Path, required=True, help="where the clones are made")
    arguments = parser.parse_args()
    runs = [reference_of(seed, arguments.folder / f"seed-{seed}") for seed in range(arguments.seeds)]
    lock = YAML(typ="safe").load(Path("dvc.lock"))
    figures = {}
    for name in runs[0]:
        values = np.array([run[name][0] for run in runs])
        figures[name] = {"mean": round(float(values.mean()), 6), "deviation": round(float(values.std(ddof=1)), 6)}
        print(f"{name:32} {values.mean():.4f}  +- {values.std(ddof=1):.4f}  {np.round(values, 4).tolist()}")
    (log,) = (dep["md5"] for dep in lock["stages"]["validate"]["deps"] if dep["path"] == str(layout.DATA))
    files.write_json(layout.SAMPLE / "seed_noise.json", {"log": log, "seeds": arguments.seeds, "figures": figures})


def reference_of(seed: int, clone: Path) -> dict[str, list[float]]:
    """The figures of a run with a seed, as in reference.json."""
    if not clone.is_dir():
        subprocess.run(["git", "clone", "--quiet", ".", clone], check=True)
    yaml = YAML()
    params = yaml.load(clone / "params.yaml")
    for stage in SEEDED:
        params[stage]["seed"] = seed
    yaml.dump(params, clone / "params.yaml")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str((clone / folder).resolve()) for folder in ("src", "."))
    }
    subprocess.run([sys.executable, "-m", "tasks.make_run"], cwd=clone, env=environment, check=True)
    set_aside = clone / LOCAL / layout.REFERENCE  # with the committed seed, where other bytes come out
    figures: dict[str, list[float]] = files.read_json(set_aside if set_aside.is_file() else clone / layout.REFERENCE)
    return figures


if __name__ == "__main__":
    main()
