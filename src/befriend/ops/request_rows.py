"""The requests of `befriend recommend` as a table, and its constraints, checked against the log that serves.

Only polars is needed, and of the log only what a check reads: ids of users, labels of actions, names of attributes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from befriend.data.attributes import ATTRIBUTES_FILE
from befriend.data.columns import ACTION, TIMESTAMP, USER_ID
from befriend.data.erasure import is_erased, read_erasure_digests
from befriend.data.event_log import EVENTS_FILE, USERS_FILE
from befriend.data.external_ids import as_log_ids
from befriend.errors import CallError
from befriend.layout import PREPARED
from befriend.ops.recommend_call import ConstraintOptions, RecommendCall, RequestFields, RequestSource
from befriend.ops.served_run import ServedRun
from befriend.ops.user_ids import (
    MAX_NAMED,
    read_ids,
    read_prepared,
    read_user_ids,
    require_id_type,
    require_user,
    unknown_ids,
)
from befriend.recommendation.request_table import check_requests, read_requests, requests_table


@dataclass(frozen=True)
class CheckedCall:
    """What a call asks for, checked against the log that serves."""

    requests: pl.DataFrame
    """columns: `befriend.recommendation.request_table.COLUMNS`; ids have the type of the ids of the log"""
    constraints: dict[str, Any]
    """the fields of `befriend.recommendation.list_constraints.ListConstraints`"""
    erased: frozenset[str]
    """digests of the users who were erased before the requests were made"""
    log_end: int
    """UTC second of the last event: the time of requests that give none"""


def check_call(call: RecommendCall, served: ServedRun) -> CheckedCall:
    """Makes the requests and constraints of a call.

    Raises CallError for an invalid request, for an id that can be no id of the log, for users whom the log does not
    have, unless `cold_start` is set, and for constraints that do not fit the log; DataError for a time before the log.
    """
    erased = read_erasure_digests(PREPARED) | read_erasure_digests(served.folder / PREPARED)
    known = _known_ids(served)
    requests = _make_requests(call.source, call.fields, served, known, erased)
    log_end = int(read_prepared(served.prepared / EVENTS_FILE, pl.col(TIMESTAMP).last())[0])
    return CheckedCall(requests, _read_constraints(call.constraints, served, known), erased, log_end)


def _make_requests(
    source: RequestSource, fields: RequestFields, served: ServedRun, known: pl.Series, erased: frozenset[str]
) -> pl.DataFrame:
    """The requests. Without regime and action, the regime is daily for many users, and live for one user.

    known: external ids of the log; erased: digests of erased users, who count as unknown.
    """
    if source.requests is not None:
        requests = read_requests(source.requests)
    else:
        users = pl.Series([source.user]) if source.users is None else read_ids(source.users)
        if source.all_users:
            users = known.filter(~is_erased(known, erased))
        regime = fields.regime or ("daily" if source.user is None and fields.action is None else None)
        requests = requests_table(users, fields.at, fields.filter_at, regime, fields.action, fields.new_only)
    events = served.prepared / EVENTS_FILE
    begin = read_prepared(events, pl.col(TIMESTAMP).first())
    actions = pl.read_parquet_schema(events)[ACTION].categories  # type: ignore[attr-defined]
    check_requests(requests, actions.to_list(), int(begin[0]))
    if not source.all_users and not source.cold_start:
        _require_users(source, requests[USER_ID], known, erased, served)
    return requests.with_columns(require_id_type(requests[USER_ID], known).alias(USER_ID))


def _read_constraints(options: ConstraintOptions, served: ServedRun, known: pl.Series) -> dict[str, Any]:
    """The fields of `ListConstraints`, with the ids in the files. known: external ids of the log."""
    if options.same or options.different:
        schema = pl.read_parquet_schema(served.prepared / ATTRIBUTES_FILE)
        names = [name for name, dtype in schema.items() if isinstance(dtype, pl.Enum)]
        for name in (*options.same, *options.different):
            if name not in names:
                raise CallError(
                    f"there is no categorical attribute {name}. Attributes: {', '.join(names) or 'the log has none'}."
                )
    only = None if options.only is None else read_ids(options.only)
    if only is not None and not as_log_ids(only, known.dtype).is_in(known.implode()).any():
        raise CallError(f"{options.only} names no user of the log, so all lists would be empty. Correct the ids.")
    return {
        "min_age_days": options.min_age_days,
        "same_attributes": options.same,
        "different_attributes": options.different,
        "only": None if only is None else tuple(only),
        "exclude": () if options.exclude is None else tuple(read_ids(options.exclude)),
        "diversity": options.diversity,
        "cap": options.cap,
    }


def _known_ids(served: ServedRun) -> pl.Series:
    """The external ids of all users of whom lists can be made: of the log, and of the log of the champion's models."""
    ids = read_user_ids(served.prepared)
    if served.prepared.parent == served.folder:
        return ids
    earlier = read_user_ids(served.folder / PREPARED)
    return ids if earlier.dtype != ids.dtype else pl.concat([earlier, ids]).unique(maintain_order=True)


def _require_users(
    source: RequestSource, users: pl.Series, known: pl.Series, erased: frozenset[str], served: ServedRun
) -> None:
    """Raises CallError for users whom the log does not have."""
    if source.user is not None:
        can_be_id = not as_log_ids(pl.Series([source.user]), known.dtype).null_count()
        hint = "--cold-start makes lists of users whom the log does not know." if can_be_id else ""
        if _joined_later(source.user, served, erased):
            hint = f"{PREPARED} has this user: add --newest, which uses the log that was prepared last."
        require_user(source.user, known, erased, served.log_name, hint)
        return
    unknown = unknown_ids(users, known, erased)
    if len(unknown):
        names = ", ".join(map(str, unknown.head(MAX_NAMED))) + (", ..." if len(unknown) > MAX_NAMED else "")
        total = users.n_unique()
        raise CallError(
            f"{len(unknown):,} of {total:,} users in {source.users or source.requests} are not in "
            f"{served.log_name}: {names}. Correct them, or add --cold-start, which makes lists of users whom the log "
            "does not know."
        )


def _joined_later(user: str, served: ServedRun, erased: frozenset[str]) -> bool:
    """Whether the log that was prepared last has a user, while a champion serves with its own, earlier log."""
    if served.champion is None or served.prepared == PREPARED or not (PREPARED / USERS_FILE).is_file():
        return False
    return not len(unknown_ids(pl.Series([user]), read_user_ids(PREPARED), erased))
