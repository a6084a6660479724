"""Times of requests: from ISO 8601 text, and as UTC seconds. Without polars, for a quick answer to a wrong time."""

from __future__ import annotations

from datetime import UTC, datetime

from befriend.errors import CallError


def to_utc_second(time: datetime) -> int:
    """Converts a datetime to a UTC second; a time without a time zone is in UTC. CallError for any other type."""
    if not isinstance(time, datetime):
        raise CallError(f"{time!r} is no datetime: times are datetimes, in UTC if they have no time zone.")
    return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp())


def parse_time(where: str, text: str) -> datetime:
    """A datetime from ISO 8601 text. where: option, or file, column and row, for error messages."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise CallError(f"{where} {text or 'nothing'}: write it as 2024-05-31 or 2024-05-31T18:00:00.") from None
