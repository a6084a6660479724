"""Ablation study: changes the options of a model one at a time and leaves all others as they are.

    python bench/ablations.py PREPARED [--model two-tower|stu] [--seeds 3] [--variants NAME ...]
        [--set NAME=VALUE ...] [--json FILE]

PREPARED is the folder that stage `validate` wrote; its texts are not used. Each variant is trained once per seed and
measured on the validation part: NDCG@10 of lists `new` and `any`, each the mean over the regimes, and `all`, the
geometric mean over lists and regimes. For the STU model, tokens are computed again for each variant and seed, with the
settings that begin with `tokens.`. Results are saved in --json, so that an interrupted run continues.

Prints a Markdown table, a row for each variant: the three metrics with their differences to the default, the number of
parameters, and training positions per second. Differences are paired by seed; their 95 % intervals are Student's t over
the seeds (none with one seed).
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from befriend import files
from befriend.data.attributes import Attributes
from befriend.data.event_log import EventLog
from befriend.data.regimes import REGIMES
from befriend.data.split import read_split
from befriend.evaluation.model_validation import stu_validation, two_tower_validation
from befriend.features.feature_view import FeatureView
from befriend.features.text_vectors import TextVectors
from befriend.objectives.objective_settings import StuSettings, TwoTowerSettings
from befriend.objectives.retrieval_objective import RetrievalObjective
from befriend.objectives.stu_objective import StuObjective
from befriend.objectives.two_tower_objective import TwoTowerObjective
from befriend.settings import parse, split_override
from befriend.stages import tokenize
from befriend.tokens.token_settings import TokenizeSettings
from befriend.tokens.tokenizer import load_tokenizer
from befriend.training.loop import fit

Settings = TwoTowerSettings | StuSettings
TWO_TOWER: dict[str, dict[str, Any]] = {
    "default": {},
    "MoE instead of MLP": {"interaction": "moe"},
    "SwiGLU instead of GELU": {"activation": "swiglu"},
    "pooled attention instead of transformer": {"history_encoder": "simple_attention"},
    "num_rand_negs 0": {"num_rand_negs": 0},
    "num_rand_negs 2": {"num_rand_negs": 2},
    "num_rand_negs 5": {"num_rand_negs": 5},
    "in-batch negatives": {"negatives": "in_batch"},
    "random negatives": {"negatives": "random"},
    "without temporal positions": {"temporal_weight": 0.0},
    "without latent cross": {"latent_cross": False},
    "without history projection": {"history_projection": False},
    "without received events": {"received_events": False},
    "without freshness": {"freshness": False},
    "without pointer": {"pointer": False},
    "without two-hop term": {"two_hop_candidates": 0},
    "without ID embedding": {"id_embedding": False},
    "without ID dropout": {"id_dropout": 0.0},
    "without log-Q correction": {"log_q": False},
    "with 5 hard negatives": {"hard_negatives": 5},
    "without the loss for first contacts": {"new_weight": 0.0},
    "shuffled instead of chronological": {"order": "shuffled"},
    "without recent neighbors": {"recent_neighbors": 0},
    "static_score_weight 1": {"static_score_weight": 1.0},
    "with 32 clusters": {"clusters": 32},
    "with 32 clusters, cluster_weight 1": {"clusters": 32, "cluster_weight": 1.0},
}
STU: dict[str, dict[str, Any]] = {
    "default": {},
    "2 codebooks": {"tokens.num_codebooks": 2},
    "4 codebooks": {"tokens.num_codebooks": 4},
    "RQ-VAE instead of residual k-means": {"tokens.quantizer": "rqvae"},
    "mean pooling instead of transformer": {"history_encoder": "mean_pooling"},
    "pooled attention instead of transformer": {"history_encoder": "simple_attention"},
    "MLP towers": {"towers": "mlp"},
    "MoE towers": {"towers": "moe"},
    "tied token embeddings": {"tied_tokens": True},
    "token_loss 0.1": {"token_loss": 0.1},
    "token_loss 1": {"token_loss": 1.0},
    "without token dropout": {"token_dropout": 0.0},
    "without recent neighbors": {"recent_neighbors": 0},
    "static_score_weight 1": {"static_score_weight": 1.0},
    "without temporal positions": {"temporal_weight": 0.0},
    "with 5 hard negatives": {"hard_negatives": 5},
    "without freshness": {"freshness": False},
    "without pointer": {"pointer": False},
    "without two-hop term": {"two_hop_candidates": 0},
    "2 codebooks of 256 codes": {"tokens.num_codebooks": 2, "tokens.codes": 256},
}
VARIANTS = {"two-tower": TWO_TOWER, "stu": STU}
T_QUANTILE = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # 97.5 % quantile of t, by number of seeds
CELLS = [f"{kind}_{regime}" for kind in ("new", "any") for regime in REGIMES]
METRICS: dict[str, Callable[[dict[str, Any]], float]] = {
    "all": lambda row: statistics.geometric_mean(max(row[cell], 1e-4) for cell in CELLS),
    "new": lambda row: statistics.fmean(row[cell] for cell in CELLS[: len(REGIMES)]),
    "any": lambda row: statistics.fmean(row[cell] for cell in CELLS[len(REGIMES) :]),
}


def train(prepared: Path, settings: Settings, tokens: TokenizeSettings) -> dict[str, float]:
    """Trains a variant: validation NDCG@10 of the best epoch by list and regime, positions per second, parameters."""
    log = EventLog.read(prepared)
    feature_view, split = FeatureView.of(log, settings.received_events), read_split(prepared, log)
    inputs = feature_view, Attributes.read(prepared), split
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        objective: RetrievalObjective[Any]
        if isinstance(settings, StuSettings):
            no_texts = TextVectors.none(log.num_users)
            (folder / "text").mkdir()
            no_texts.save(folder / "text", log)
            tokenize.run(tokens, prepared, folder, folder / "reports", folder)
            tokenizer = load_tokenizer(folder / "tokens", log, no_texts)
            stus = tokenizer.add_newcomers(log).table.stus
            validate = stu_validation(feature_view, split, settings, stus)
            objective = StuObjective(*inputs, settings, tokenizer.table, stus, validate)
        else:
            objective = TwoTowerObjective(*inputs, settings, two_tower_validation(feature_view, split, settings))
        fitted = fit(objective, settings, folder / "checkpoints", folder / "curves")
    best = fitted.history[fitted.best_epoch - 1]
    figures = {cell: best[f"validation/{cell}"] for cell in CELLS}
    return figures | {"speed": fitted.positions_per_second, "parameters": fitted.num_parameters}


def interval(differences: list[float]) -> str:
    """Mean of the differences, a value for each seed, and half the width of its 95 % interval."""
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return f"{mean:+.4f}"
    half_width = T_QUANTILE[len(differences)] * statistics.stdev(differences) / math.sqrt(len(differences))
    return f"{mean:+.4f} ± {half_width:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--model", choices=VARIANTS, default="two-tower")
    parser.add_argument("--seeds", type=int, default=3, choices=range(1, 6))
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--json", type=Path, default=Path("ablations.json"))
    arguments = parser.parse_args()
    all_variants = VARIANTS[arguments.model]
    chosen = arguments.variants or list(all_variants)
    if unknown := set(chosen) - set(all_variants):
        parser.error(f"no variant of {arguments.model}: {', '.join(sorted(unknown))}")
    variants = {name: option for name, option in all_variants.items() if name in ("default", *chosen)}
    base = dict(split_override(item) for item in arguments.overrides)
    results: dict[str, Any] = files.read_json(arguments.json) if arguments.json.is_file() else {}
    for seed in range(arguments.seeds):
        for name, option in variants.items():
            options = base | option | {"seed": seed}
            model: type[Settings] = StuSettings if arguments.model == "stu" else TwoTowerSettings
            settings = parse(model, {k: v for k, v in options.items() if not k.startswith("tokens.")}, name)
            token_options = {k.removeprefix("tokens."): v for k, v in options.items() if k.startswith("tokens.")}
            tokens = parse(TokenizeSettings, {"threads": settings.threads, "seed": seed} | token_options, name)
            key = f"{arguments.prepared} {arguments.model} {name} {settings.model_dump_json()}"
            if arguments.model == "stu":
                key += tokens.model_dump_json()
            if key not in results:
                print(f"{name}, seed {seed}", flush=True)
                results[key] = train(arguments.prepared, settings, tokens) | {"name": name, "seed": seed}
                files.write_json(arguments.json, results)
    rows = [row for key, row in results.items() if key.startswith(f"{arguments.prepared} {arguments.model} ")]
    results_by_variant = {(row["name"], row["seed"]): row for row in rows}
    print(f"\n| | {' | '.join(f'{name} | difference' for name in METRICS)} | parameters | positions/s |")
    print(f"|---|{'---:|' * (2 * len(METRICS) + 2)}")
    for name in variants:
        variant_results = [results_by_variant[name, seed] for seed in range(arguments.seeds)]
        cells = []
        for metric in METRICS.values():
            differences = [metric(row) - metric(results_by_variant["default", row["seed"]]) for row in variant_results]
            cells += [
                f"{statistics.fmean(map(metric, variant_results)):.4f}",
                "" if name == "default" else interval(differences),
            ]
        speed = statistics.fmean(row["speed"] for row in variant_results)
        print(f"| {name} | {' | '.join(cells)} | {variant_results[0]['parameters']:,} | {speed:,.0f} |")


if __name__ == "__main__":
    main()
