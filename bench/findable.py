"""What it is worth to show people who have no event yet, over several logs together.

    python bench/findable.py PROJECT ... [--regimes streaming live daily] [--part test]

Each PROJECT is a folder after `dvc repro`. Of each regime the lists of `both` as they are served, beside the same
without people who have no event: NDCG@10 of all first contacts, those included whose target had none; the paired
difference with its 95 % interval over the users of all logs together; and the share of the first ten places that such
people have, on lists of first contacts and on all lists.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from befriend.config import load_params
from befriend.data.log import EventLog
from befriend.data.split import read_split
from befriend.evaluation.metrics import UserBootstrap, per_list
from befriend.evaluation.protocol import ask, ranks
from befriend.evaluation.ranked import ranked
from befriend.retrieval.models import Models
from befriend.retrieval.ranker import read_boosters

HEAD = 10
MODEL = "both"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("projects", type=Path, nargs="+")
    parser.add_argument("--regimes", nargs="+", default=["streaming", "live", "daily"])
    parser.add_argument("--part", choices=["validation", "test"], default="test")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]] = {r: [] for r in arguments.regimes}
    print("| log | regime | first contacts | with a target without events | shown | hidden | of `new` | of all lists |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for project in arguments.projects:
        log = EventLog.read(project / "prepared")
        split, models = (
            read_split(project / "prepared", log),
            Models.read(project / "prepared", project / "models", log),
        )
        size = load_params(project / "params.yaml").evaluate.events
        asked = {r: ask(log, split, arguments.part, size, r, models.findable) for r in arguments.regimes}
        recommender = models.recommender(read_boosters(project / "models" / "ranker"))
        lists = ranked(recommender, log, models.activity.histories, asked, (MODEL,), project.name)
        for regime, q in asked.items():
            events, new = q.events[q.row_event], q.row_is_new
            shown, hidden = (
                per_list(ranks(made[regime][MODEL][new], log.target[events[new]]))[0]
                for made in (lists.served, lists.protocol)
            )
            found[regime].append((project.name, log.actor[events[new]], shown, hidden))
            head = lists.served[regime][MODEL][:, :HEAD]
            silent = (head >= 0) & (log.first_seen[head.clip(min=0)] >= q.horizon[q.row_event][:, None])
            share = [silent[rows].sum() / max(1, (head[rows] >= 0).sum()) for rows in (new, slice(None))]
            first_ever = int((q.row_segment[new] != 2).sum())
            print(
                f"| {project.name} | {regime} | {len(shown):,} | {first_ever:,} | {shown.mean():.4f} | "
                f"{hidden.mean():.4f} | {share[0]:.2%} | {share[1]:.2%} |"
            )
    for regime, parts in found.items():
        users = np.concatenate([k * 10**9 + who.astype(np.int64) for k, (_, who, _, _) in enumerate(parts)])
        change = np.concatenate([shown - hidden for _, _, shown, hidden in parts])
        low, high = UserBootstrap(users, 2000, 0.95, 0).intervals(change[None], np.ones(len(change), bool))[0]
        print(f"\n{regime}, all logs: {change.mean():+.4f} ({low:+.4f} to {high:+.4f}), {len(change):,} first contacts")


if __name__ == "__main__":
    main()
