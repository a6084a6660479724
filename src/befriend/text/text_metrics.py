"""Metrics of user and statement embeddings, computed from scores and vectors of any method.

Statement retrieval, zero-shot inference, similarity of users and of statements, the distribution of the vectors, and
author retrieval: given one half of a user's texts, find the other half among those of all users.
"""

from __future__ import annotations

import numpy as np

MAX_PAIRS = 20_000  # more pairs than this are sampled


def reciprocal_ranks(scores: np.ndarray, is_true: np.ndarray) -> np.ndarray:
    """float64[U]: 1 / rank of the best true statement; ties count half. scores: float[U, S]; is_true: bool[U, S]."""
    best = np.where(is_true, scores, -np.inf).max(1, keepdims=True)
    ahead = (~is_true & (scores > best)).sum(1) + 0.5 * (~is_true & (scores == best)).sum(1)
    return 1 / (1 + ahead)


def retrieval(scores: np.ndarray, is_true: np.ndarray, ks: tuple[int, ...] = (1, 5, 10)) -> dict[str, float]:
    """Means over the users with a true statement: precision@k, recall@k, f1@k, ndcg@k, and mrr.

    scores: float[U, S]; is_true: bool[U, S].
    """
    has_true_statement = is_true.any(1)
    scores, is_true = scores[has_true_statement], is_true[has_true_statement]
    order = np.argsort(-scores, axis=1, kind="stable")
    is_hit = np.take_along_axis(is_true, order, 1)
    num_true = is_true.sum(1)
    means: dict[str, float] = {}
    for k in ks:
        hits = is_hit[:, :k].sum(1)
        precision, recall = hits / k, hits / num_true
        f1 = np.where(hits > 0, 2 * precision * recall / np.maximum(precision + recall, 1e-12), 0)
        gain = 1 / np.log2(np.arange(min(k, is_hit.shape[1])) + 2)
        ideal = np.array([gain[: min(n, k)].sum() for n in num_true])
        metrics = {"precision": precision, "recall": recall, "f1": f1, "ndcg": (is_hit[:, :k] * gain).sum(1) / ideal}
        means |= {f"{name}@{k}": float(values.mean()) for name, values in metrics.items()}
    return means | {"mrr": float(reciprocal_ranks(scores, is_true).mean())}


def best_threshold(scores: np.ndarray, is_true: np.ndarray) -> float:
    """The threshold on the score, from which a statement counts as true, with the best F1 over all pairs.

    scores: float[U, S]; is_true: bool[U, S].
    """
    order = np.argsort(-scores, axis=None, kind="stable")
    descending, hits = scores.ravel()[order], is_true.ravel()[order].cumsum()
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + is_true.sum())
    is_last = np.append(descending[1:] != descending[:-1], True)  # a threshold includes all pairs of an equal score
    return float(descending[np.argmax(np.where(is_last, f1, -1))])


def zero_shot(scores: np.ndarray, is_true: np.ndarray, threshold: float) -> dict[str, float]:
    """f1: over all pairs at a threshold; auc: mean over users of the area under the ROC curve.

    scores: float[U, S], of statements that are not in training; is_true: bool[U, S].
    """
    predicted = scores >= threshold
    f1 = 2 * (predicted & is_true).sum() / max(predicted.sum() + is_true.sum(), 1)
    return {
        "f1": float(f1),
        "auc": float(np.mean([_auc(s, t) for s, t in zip(scores, is_true, strict=True) if t.any()])),
    }


def _auc(scores: np.ndarray, is_true: np.ndarray) -> float:
    """Share of pairs in which the true statement scores higher than the false one (Mann and Whitney 1947).

    Ties count half. scores: float[S]; is_true: bool[S].
    """
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    positives = int(is_true.sum())
    negatives = len(is_true) - positives
    if not negatives:
        return 1.0
    return float((rankdata(scores)[is_true].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def author_ranks(scores: np.ndarray) -> np.ndarray:
    """float64[n]: the rank, from 1, of column i in row i; ties count half. scores: float[n, n]."""
    diagonal = scores.diagonal()[:, None]
    return 1 + (scores > diagonal).sum(1) + 0.5 * ((scores == diagonal).sum(1) - 1)


def author_retrieval(scores: np.ndarray) -> dict[str, float]:
    """mrr, recall@1 and recall@10 of finding a user's other half of texts. scores: float[n, n]."""
    rank = author_ranks(scores)
    return {"mrr": float((1 / rank).mean()), **{f"recall@{k}": float((rank <= k).mean()) for k in (1, 10)}}


def similarity(vectors: np.ndarray, attributes: np.ndarray, seed: int = 0) -> dict[str, float]:
    """How well the cosine of two vectors agrees with the Jaccard index of their attributes.

    vectors: float[n, E], of length 1, of users or statements; attributes: bool[n, m], the statements that are true of
    each user, or the users of whom each statement is true. Returns spearman: rank correlation of cosine and Jaccard
    index over pairs; neighbours: mean Jaccard index with the five nearest rows; everybody: mean Jaccard index of all
    pairs.
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
    if len(row) > MAX_PAIRS:
        sampled = np.random.default_rng(seed).permutation(len(row))[:MAX_PAIRS]
        row, column = row[sampled], column[sampled]
    without_self = cosine - 4 * np.eye(n)
    nearest = np.argsort(-without_self, axis=1, kind="stable")[:, : min(5, n - 1)]
    is_constant = np.ptp(jaccard[row, column]) == 0 or np.ptp(cosine[row, column]) == 0
    return {
        "spearman": 0.0 if is_constant else float(spearmanr(cosine[row, column], jaccard[row, column])[0]),
        "neighbours": float(np.take_along_axis(jaccard, nearest, 1).mean()),
        "everybody": float(jaccard[row, column].mean()),
    }


def embedding_space(users: np.ndarray, statements: np.ndarray, is_true: np.ndarray, seed: int = 0) -> dict[str, float]:
    """How the vectors are distributed in the shared space.

    alignment: mean squared distance of a user and a true statement; uniformity: log of the mean of exp(-2 d^2) over
    pairs of users (Wang and Isola 2020); smaller is better for both. anisotropy: mean cosine of two users (Ethayarajh
    2019), 0 if all directions are used equally. effective_rank: exp of the entropy of the spectrum (Roy and Vetterli
    2007).

    users: float[U, E]; statements: float[S, E], of length 1; is_true: bool[U, S].
    """
    user, statement = is_true.nonzero()
    distance = ((users[user] - statements[statement]) ** 2).sum(1)
    rng = np.random.default_rng(seed)
    first, second = rng.integers(len(users), size=(2, MAX_PAIRS))
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
