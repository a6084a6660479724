"""What lists gain from cold-start users, who have no event yet, over several logs together.

    python bench/cold_start.py PROJECT ... [--regimes streaming live daily] [--part test]

Each PROJECT is a folder after `dvc repro`. Compares the lists of `both` as served with the same lists without
cold-start users, by NDCG@10 of all first contacts, those with a cold-start target included.

Prints a Markdown table, a row for each log and regime: NDCG@10 of both kinds of lists, and the share of cold-start
users in the top 10 as served, on lists of first contacts and on all lists; and for each regime the paired difference
with its 95 % interval over the users of all logs together.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from befriend.config import load_params
from befriend.data.event_log import EventLog
from befriend.data.split import read_split
from befriend.evaluation.metrics import UserBootstrap, metrics_per_list
from befriend.evaluation.protocol import make_eval_queries, target_ranks
from befriend.evaluation.run_rankers import run_rankers
from befriend.retrieval.loaded_models import LoadedModels
from befriend.retrieval.ranker import Rankers

TOP = 10
MODEL = "both"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("projects", type=Path, nargs="+")
    parser.add_argument("--regimes", nargs="+", default=["streaming", "live", "daily"])
    parser.add_argument("--part", choices=["validation", "test"], default="test")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]] = {r: [] for r in arguments.regimes}
    print("| log | regime | first contacts | cold-start targets | shown | hidden | share, new | share, all |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for project in arguments.projects:
        log = EventLog.read(project / "prepared")
        split, models = (
            read_split(project / "prepared", log),
            LoadedModels.load(project / "prepared", project / "models", log),
        )
        size = load_params(project / "params.yaml").evaluate.events
        queries = {
            r: make_eval_queries(log, split, arguments.part, size, r, models.eligible_since) for r in arguments.regimes
        }
        recommender = models.recommender(Rankers.read(project / "models" / "ranker"))
        lists = run_rankers(recommender, log, models.activity.histories, queries, (MODEL,), project.name)
        for regime, q in queries.items():
            events, new = q.events[q.row_event], q.row_excludes_contacts
            # NDCG@10 with cold-start users on the lists, and without them
            shown, hidden = (
                metrics_per_list(target_ranks(lists_by_regime[regime][MODEL][new], log.target[events[new]]))[0]
                for lists_by_regime in (lists.served, lists.protocol)
            )
            results[regime].append((project.name, log.actor[events[new]], shown, hidden))
            top = lists.served[regime][MODEL][:, :TOP]
            is_cold_start = (top >= 0) & (log.first_seen[top.clip(min=0)] >= q.cutoff[q.row_event][:, None])
            share = [is_cold_start[rows].sum() / max(1, (top[rows] >= 0).sum()) for rows in (new, slice(None))]
            first_ever = int((q.row_segment[new] != 2).sum())
            print(
                f"| {project.name} | {regime} | {len(shown):,} | {first_ever:,} | {shown.mean():.4f} | "
                f"{hidden.mean():.4f} | {share[0]:.2%} | {share[1]:.2%} |"
            )
    for regime, parts in results.items():
        users = np.concatenate([k * 10**9 + actor.astype(np.int64) for k, (_, actor, _, _) in enumerate(parts)])
        gain = np.concatenate([shown - hidden for _, _, shown, hidden in parts])
        low, high = UserBootstrap(users, 2000, 0.95, 0).intervals(gain[None], np.ones(len(gain), bool))[0]
        print(f"\n{regime}, all logs: {gain.mean():+.4f} ({low:+.4f} to {high:+.4f}), {len(gain):,} first contacts")


if __name__ == "__main__":
    main()
