"""What each option of a model gives: every option turned, one at a time, everything else as it is.

    python bench/ablations.py PREPARED [--model two-tower|stu] [--seeds 3] [--set NAME=VALUE ...] [--json FILE]

PREPARED is the folder that stage `validate` wrote; texts in it are not looked at. The STU model's tokens are made anew
for each variant and seed, with the settings that begin with `tokens.`. Each variant is trained once a seed, and
measured on the validation part: NDCG@10 on the lists `new` and `any`, each the mean over the regimes, and `all`, the
geometric mean over lists and regimes. Differences to the default are paired by seed; the interval is Student's t over
the seeds (none with one seed). What was measured is kept in --json, so that an interrupted run goes on.
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
from befriend.data.log import EventLog
from befriend.data.observed import Observed
from befriend.data.split import read_split
from befriend.data.texts import TextVectors
from befriend.evaluation.regimes import REGIMES
from befriend.models.settings import StuSettings, TwoTowerSettings
from befriend.settings import parse, split_override
from befriend.stages import tokenize
from befriend.tokens.folder import load
from befriend.tokens.settings import TokenizeSettings
from befriend.training.loop import fit
from befriend.training.retrieval import RetrievalTrainee
from befriend.training.stu import StuTrainee
from befriend.training.two_tower import TwoTowerTrainee

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
    "without inbound events": {"received_events": False},
    "without freshness": {"freshness": False},
    "without pointer": {"pointer": False},
    "without ID embedding": {"id_embedding": False},
    "ID embeddings never left out": {"id_dropout": 0.0},
    "without log-Q correction": {"log_q": False},
    "with 5 hard negatives": {"hard_negatives": 5},
    "without a loss of its own for first contacts": {"new_weight": 0.0},
    "shuffled instead of chronological": {"order": "shuffled"},
    "targets not described by partners": {"partners": 0},
    "what users are counts in full": {"user_weight": 1.0},
    "clusters inside": {"clusters": 32},
    "clusters inside, with as much loss of the next one": {"clusters": 32, "cluster_weight": 1.0},
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
    "tokens scored by their embeddings": {"tied_tokens": True},
    "with a tenth of the loss of tokens alone": {"token_loss": 0.1},
    "with as much loss of tokens alone": {"token_loss": 1.0},
    "tokens never left out": {"token_dropout": 0.0},
    "targets not described by partners": {"partners": 0},
    "what users are counts in full": {"user_weight": 1.0},
    "without temporal positions": {"temporal_weight": 0.0},
    "with 5 hard negatives": {"hard_negatives": 5},
    "without freshness": {"freshness": False},
    "without pointer": {"pointer": False},
    "next cluster first": {"tokens.num_codebooks": 2, "tokens.codes": 256},
}
VARIANTS = {"two-tower": TWO_TOWER, "stu": STU}
STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # 97.5 % quantile of t, by number of seeds
CELLS = [f"{kind}_{regime}" for kind in ("new", "any") for regime in REGIMES]
MEASURES: dict[str, Callable[[dict[str, Any]], float]] = {
    "all": lambda row: statistics.geometric_mean(max(row[cell], 1e-4) for cell in CELLS),
    "new": lambda row: statistics.fmean(row[cell] for cell in CELLS[:3]),
    "any": lambda row: statistics.fmean(row[cell] for cell in CELLS[3:]),
}


def train(prepared: Path, settings: Settings, tokens: TokenizeSettings) -> dict[str, float]:
    """Validation figures of the best epoch by list and regime; positions a second; parameters."""
    log = EventLog.read(prepared)
    inputs = Observed.of(log, settings.received_events), Attributes.read(prepared), read_split(prepared, log)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trainee: RetrievalTrainee[Any]
        if isinstance(settings, StuSettings):
            none = TextVectors.none(log.num_users)
            (folder / "text").mkdir()
            none.save(folder / "text", log)
            tokenize.run(tokens, prepared, folder, folder / "reports", folder)
            trainee = StuTrainee(*inputs, settings, load(folder / "tokens", log, none))
        else:
            trainee = TwoTowerTrainee(*inputs, settings)
        fitted = fit(trainee, settings, folder / "checkpoints", folder / "curves")
    best = fitted.history[fitted.best_epoch - 1]
    figures = {cell: best[f"validation/{cell}"] for cell in CELLS}
    return figures | {"speed": fitted.positions_per_second, "parameters": fitted.parameters}


def interval(differences: list[float]) -> str:
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return f"{mean:+.4f}"
    half = STUDENT[len(differences)] * statistics.stdev(differences) / math.sqrt(len(differences))
    return f"{mean:+.4f} ± {half:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--model", choices=VARIANTS, default="two-tower")
    parser.add_argument("--seeds", type=int, default=3, choices=range(1, 6))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--json", type=Path, default=Path("ablations.json"))
    arguments = parser.parse_args()
    base = dict(split_override(item) for item in arguments.overrides)
    found: dict[str, Any] = files.read_json(arguments.json) if arguments.json.is_file() else {}
    for seed in range(arguments.seeds):
        for name, option in VARIANTS[arguments.model].items():
            all_ = base | option | {"seed": seed}
            model: type[Settings] = StuSettings if arguments.model == "stu" else TwoTowerSettings
            settings = parse(model, {k: v for k, v in all_.items() if not k.startswith("tokens.")}, name)
            own_tokens = {k.removeprefix("tokens."): v for k, v in all_.items() if k.startswith("tokens.")}
            tokens = parse(TokenizeSettings, {"threads": settings.threads, "seed": seed} | own_tokens, name)
            key = f"{arguments.prepared} {arguments.model} {name} {settings.model_dump_json()}"
            if arguments.model == "stu":
                key += tokens.model_dump_json()
            if key not in found:
                print(f"{name}, seed {seed}", flush=True)
                found[key] = train(arguments.prepared, settings, tokens) | {"name": name, "seed": seed}
                files.write_json(arguments.json, found)
    rows = [row for key, row in found.items() if key.startswith(f"{arguments.prepared} {arguments.model} ")]
    by = {(row["name"], row["seed"]): row for row in rows}
    print(f"\n| | {' | '.join(f'{name} | difference' for name in MEASURES)} | parameters | positions/s |")
    print(f"|---|{'---:|' * (2 * len(MEASURES) + 2)}")
    for name in VARIANTS[arguments.model]:
        own = [by[name, seed] for seed in range(arguments.seeds)]
        cells = []
        for measure in MEASURES.values():
            differences = [measure(row) - measure(by["default", row["seed"]]) for row in own]
            cells += [f"{statistics.fmean(map(measure, own)):.4f}", "" if name == "default" else interval(differences)]
        speed = statistics.fmean(row["speed"] for row in own)
        print(f"| {name} | {' | '.join(cells)} | {own[0]['parameters']:,} | {speed:,.0f} |")


if __name__ == "__main__":
    main()
