"""The measures of universal user embeddings, on scores and vectors, whoever made them.

Statement retrieval, zero-shot inference, similarity of users and of statements, the shape of the space, and author
retrieval: one half of somebody's texts must find the other half.
"""

from __future__ import annotations

import numpy as np

PAIRS = 20_000  # drawn, where all pairs would be too many


def reciprocal_ranks(scores: np.ndarray, true: np.ndarray) -> np.ndarray:
    """float64[U]: 1 / rank of the best true statement; ties count half. scores: float[U, S]; true: bool[U, S]."""
    best = np.where(true, scores, -np.inf).max(1, keepdims=True)
    ahead = (~true & (scores > best)).sum(1) + 0.5 * (~true & (scores == best)).sum(1)
    return 1 / (1 + ahead)


def retrieval(scores: np.ndarray, true: np.ndarray, ks: tuple[int, ...] = (1, 5, 10)) -> dict[str, float]:
    """Means over the users with a true statement: precision@k, recall@k, f1@k, ndcg@k, and mrr.

    scores: float[U, S]; true: bool[U, S].
    """
    chosen = true.any(1)
    scores, true = scores[chosen], true[chosen]
    order = np.argsort(-scores, axis=1, kind="stable")
    hit = np.take_along_axis(true, order, 1)
    count = true.sum(1)
    found: dict[str, float] = {}
    for k in ks:
        hits = hit[:, :k].sum(1)
        precision, recall = hits / k, hits / count
        f1 = np.where(hits > 0, 2 * precision * recall / np.maximum(precision + recall, 1e-12), 0)
        gain = 1 / np.log2(np.arange(min(k, hit.shape[1])) + 2)
        best = np.array([gain[: min(n, k)].sum() for n in count])
        named = {"precision": precision, "recall": recall, "f1": f1, "ndcg": (hit[:, :k] * gain).sum(1) / best}
        found |= {f"{name}@{k}": float(values.mean()) for name, values in named.items()}
    return found | {"mrr": float(reciprocal_ranks(scores, true).mean())}


def best_threshold(scores: np.ndarray, true: np.ndarray) -> float:
    """The score from which on a statement is called true, with the best F1 over all pairs."""
    order = np.argsort(-scores, axis=None, kind="stable")
    flat, hit = scores.ravel()[order], true.ravel()[order].cumsum()
    f1 = 2 * hit / (np.arange(1, len(hit) + 1) + true.sum())
    last = np.append(flat[1:] != flat[:-1], True)  # equal scores stand or fall together
    return float(flat[np.argmax(np.where(last, f1, -1))])


def zero_shot(scores: np.ndarray, true: np.ndarray, threshold: float) -> dict[str, float]:
    """f1 over all pairs at a threshold, and auc, the mean over users of whether true statements come first.

    scores: float[U, S], of statements that were not learned from; true: bool[U, S].
    """
    called = scores >= threshold
    f1 = 2 * (called & true).sum() / max(called.sum() + true.sum(), 1)
    return {"f1": float(f1), "auc": float(np.mean([_auc(s, t) for s, t in zip(scores, true, strict=True) if t.any()]))}


def _auc(scores: np.ndarray, true: np.ndarray) -> float:
    """How often a true one lies ahead of a false one; ties count half (Mann and Whitney 1947)."""
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    positives = int(true.sum())
    negatives = len(true) - positives
    if not negatives:
        return 1.0
    return float((rankdata(scores)[true].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def author_ranks(scores: np.ndarray) -> np.ndarray:
    """float64[n]: the rank, from 1, at which row i finds column i; ties count half. scores: float[n, n]."""
    own = scores.diagonal()[:, None]
    return 1 + (scores > own).sum(1) + 0.5 * ((scores == own).sum(1) - 1)


def authors(scores: np.ndarray) -> dict[str, float]:
    """mrr and recall@1 and @10 of finding somebody's other half. scores: float[n, n]."""
    rank = author_ranks(scores)
    return {"mrr": float((1 / rank).mean()), **{f"recall@{k}": float((rank <= k).mean()) for k in (1, 10)}}


def similarity(vectors: np.ndarray, held: np.ndarray, seed: int = 0) -> dict[str, float]:
    """How far being near goes with having something in common: Spearman's correlation over pairs of rows.

    vectors: float[n, E], of length 1: users by what is true of them, or statements by of whom they are; held:
    bool[n, m], what each has. spearman: of cosine and Jaccard index; neighbours: Jaccard index with the nearest five,
    everybody: with anybody.
    """
    from scipy.stats import spearmanr

    n = len(vectors)
    if n < 3:
        return {"spearman": 0.0, "neighbours": 0.0, "everybody": 0.0}
    cosine = vectors @ vectors.T
    own = held.astype(np.float64)
    both = own @ own.T
    either = own.sum(1)[:, None] + own.sum(1) - both
    jaccard = both / np.maximum(either, 1)
    row, column = np.triu_indices(n, 1)
    if len(row) > PAIRS:
        chosen = np.random.default_rng(seed).permutation(len(row))[:PAIRS]
        row, column = row[chosen], column[chosen]
    apart = cosine - 4 * np.eye(n)
    near = np.argsort(-apart, axis=1, kind="stable")[:, : min(5, n - 1)]
    constant = np.ptp(jaccard[row, column]) == 0 or np.ptp(cosine[row, column]) == 0
    return {
        "spearman": 0.0 if constant else float(spearmanr(cosine[row, column], jaccard[row, column])[0]),
        "neighbours": float(np.take_along_axis(jaccard, near, 1).mean()),
        "everybody": float(jaccard[row, column].mean()),
    }


def space(users: np.ndarray, statements: np.ndarray, true: np.ndarray, seed: int = 0) -> dict[str, float]:
    """The shape of the shared space.

    alignment: mean squared distance of a user and a true statement, uniformity: log of the mean of exp(-2 d^2) over
    pairs of users (Wang and Isola 2020), both better the smaller; anisotropy: mean cosine of two users (Ethayarajh
    2019), 0 where all directions are used; effective_rank: exp of the entropy of the spectrum (Roy and Vetterli 2007).

    users: float[U, E]; statements: float[S, E], of length 1; true: bool[U, S].
    """
    user, statement = true.nonzero()
    distance = ((users[user] - statements[statement]) ** 2).sum(1)
    rng = np.random.default_rng(seed)
    one, other = rng.integers(len(users), size=(2, PAIRS))
    one, other = one[one != other], other[one != other]
    cosine = (users[one] * users[other]).sum(1)
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
