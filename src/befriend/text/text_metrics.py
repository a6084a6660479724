"""Metrics of universal user embeddings, computed from scores and vectors of any method.

Statement retrieval, zero-shot inference, similarity of users and of statements, the shape of the space, and author
retrieval: one half of a user's texts must find the other half.
"""

from __future__ import annotations

import numpy as np

PAIRS = 20_000  # pairs sampled where all pairs would be too many


def reciprocal_ranks(scores: np.ndarray, true: np.ndarray) -> np.ndarray:
    """float64[U]: 1 / rank of the best true statement; ties count half. scores: float[U, S]; true: bool[U, S]."""
    best = np.where(true, scores, -np.inf).max(1, keepdims=True)
    ahead = (~true & (scores > best)).sum(1) + 0.5 * (~true & (scores == best)).sum(1)
    return 1 / (1 + ahead)


def retrieval(scores: np.ndarray, true: np.ndarray, ks: tuple[int, ...] = (1, 5, 10)) -> dict[str, float]:
    """Means over the users with a true statement: precision@k, recall@k, f1@k, ndcg@k, and mrr.

    scores: float[U, S]; true: bool[U, S].
    """
    has_true = true.any(1)
    scores, true = scores[has_true], true[has_true]
    order = np.argsort(-scores, axis=1, kind="stable")
    is_hit = np.take_along_axis(true, order, 1)
    num_true = true.sum(1)
    means: dict[str, float] = {}
    for k in ks:
        hits = is_hit[:, :k].sum(1)
        precision, recall = hits / k, hits / num_true
        f1 = np.where(hits > 0, 2 * precision * recall / np.maximum(precision + recall, 1e-12), 0)
        gain = 1 / np.log2(np.arange(min(k, is_hit.shape[1])) + 2)
        ideal = np.array([gain[: min(n, k)].sum() for n in num_true])
        metrics = {"precision": precision, "recall": recall, "f1": f1, "ndcg": (is_hit[:, :k] * gain).sum(1) / ideal}
        means |= {f"{name}@{k}": float(values.mean()) for name, values in metrics.items()}
    return means | {"mrr": float(reciprocal_ranks(scores, true).mean())}


def best_threshold(scores: np.ndarray, true: np.ndarray) -> float:
    """The score from which a statement counts as true, with the best F1 over all pairs."""
    order = np.argsort(-scores, axis=None, kind="stable")
    descending, hits = scores.ravel()[order], true.ravel()[order].cumsum()
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + true.sum())
    is_last = np.append(descending[1:] != descending[:-1], True)  # a threshold includes all pairs of an equal score
    return float(descending[np.argmax(np.where(is_last, f1, -1))])


def zero_shot(scores: np.ndarray, true: np.ndarray, threshold: float) -> dict[str, float]:
    """f1 over all pairs at a threshold, and auc, the mean over users of how often true statements rank higher.

    scores: float[U, S], of statements that training never saw; true: bool[U, S].
    """
    predicted = scores >= threshold
    f1 = 2 * (predicted & true).sum() / max(predicted.sum() + true.sum(), 1)
    return {"f1": float(f1), "auc": float(np.mean([_auc(s, t) for s, t in zip(scores, true, strict=True) if t.any()]))}


def _auc(scores: np.ndarray, true: np.ndarray) -> float:
    """How often a true statement scores higher than a false one; ties count half (Mann and Whitney 1947)."""
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    positives = int(true.sum())
    negatives = len(true) - positives
    if not negatives:
        return 1.0
    return float((rankdata(scores)[true].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def author_ranks(scores: np.ndarray) -> np.ndarray:
    """float64[n]: the rank, from 1, of column i in row i; ties count half. scores: float[n, n]."""
    diagonal = scores.diagonal()[:, None]
    return 1 + (scores > diagonal).sum(1) + 0.5 * ((scores == diagonal).sum(1) - 1)


def authors(scores: np.ndarray) -> dict[str, float]:
    """mrr, recall@1 and recall@10 of finding a user's other half. scores: float[n, n]."""
    rank = author_ranks(scores)
    return {"mrr": float((1 / rank).mean()), **{f"recall@{k}": float((rank <= k).mean()) for k in (1, 10)}}


def similarity(vectors: np.ndarray, attributes: np.ndarray, seed: int = 0) -> dict[str, float]:
    """How well the cosine of two rows agrees with what they have in common, their Jaccard index.

    vectors: float[n, E], of length 1, of users or statements; attributes: bool[n, m], the statements that are true of
    each user, or the users of whom each statement is true. Returns spearman: correlation of cosine and Jaccard index
    over pairs; neighbours: mean Jaccard index with the five nearest rows; everybody: mean Jaccard index over pairs.
    """
    from scipy.stats import spearmanr

    n = len(vectors)
    if n < 3:
        return {"spearman": 0.0, "neighbours": 0.0, "everybody": 0.0}
    cosine = vectors @ vectors.T
    indicators = attributes.astype(np.float64)
    intersection = indicators @ indicators.T
    union = indicators.sum(1)[:, None] + indicators.sum(1) - intersection
    jaccard = intersection / np.maximum(union, 1)
    row, column = np.triu_indices(n, 1)
    if len(row) > PAIRS:
        sampled = np.random.default_rng(seed).permutation(len(row))[:PAIRS]
        row, column = row[sampled], column[sampled]
    without_self = cosine - 4 * np.eye(n)
    nearest = np.argsort(-without_self, axis=1, kind="stable")[:, : min(5, n - 1)]
    is_constant = np.ptp(jaccard[row, column]) == 0 or np.ptp(cosine[row, column]) == 0
    return {
        "spearman": 0.0 if is_constant else float(spearmanr(cosine[row, column], jaccard[row, column])[0]),
        "neighbours": float(np.take_along_axis(jaccard, nearest, 1).mean()),
        "everybody": float(jaccard[row, column].mean()),
    }


def space(users: np.ndarray, statements: np.ndarray, true: np.ndarray, seed: int = 0) -> dict[str, float]:
    """The shape of the shared space.

    alignment: mean squared distance of a user and a true statement, uniformity: log of the mean of exp(-2 d^2) over
    pairs of users (Wang and Isola 2020), smaller is better for both; anisotropy: mean cosine of two users (Ethayarajh
    2019), 0 where all directions are used; effective_rank: exp of the entropy of the spectrum (Roy and Vetterli 2007).

    users: float[U, E]; statements: float[S, E], of length 1; true: bool[U, S].
    """
    user, statement = true.nonzero()
    distance = ((users[user] - statements[statement]) ** 2).sum(1)
    rng = np.random.default_rng(seed)
    first, second = rng.integers(len(users), size=(2, PAIRS))
    first, second = first[first != second], second[first != second]
    cosine = (users[first] * users[second]).sum(1)
    spectrum = np.linalg.svd(users - users.mean(0), compute_uv=False) ** 2
    share = spectrum / max(spectrum.sum(), 1e-12)
    share = share[share > 1e-12]
    return {
        "alignment": float(distance.mean()) if len(distance) else 0.0,
        "uniformity": float(np.log(np.exp(-2 * (2 - 2 * cosine)).mean())) if len(cosine) else 0.0,
        "anisotropy": float(cosine.mean()) if len(cosine) else 0.0,
        "effective_rank": float(np.exp(-(share * np.log(share)).sum())),
    }


def rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in figures.items()}
