"""The names of table columns, the roles of actions, and the reasons why rows are rejected.

Readers and row rules use the same names for the fields of raw rows.
"""

from __future__ import annotations

from typing import Final, Literal

# columns of events
ACTOR: Final = "actor_id"
ACTION: Final = "action"
TARGET: Final = "target_id"
TIMESTAMP: Final = "timestamp"
ROLE: Final = "role"
NANOSECOND: Final = "nanosecond"
"""the timestamp in UTC nanoseconds, as fine as the raw log has it; orders the events of a second"""
EVENT_FIELDS: Final = (ACTOR, ACTION, TARGET, TIMESTAMP)
TIME_OF_DAY: Final = "time_of_day"
"""of a raw event whose timestamp holds the date only"""

# columns of users and of their attributes
USER: Final = "user"
"""internal id, a number from 0 to N - 1"""
USER_ID: Final = "user_id"
"""external id, as in the raw log"""
ID_FIELDS: Final = (ACTOR, TARGET, USER_ID)
CATEGORICAL: Final = "categorical"
NUMERIC: Final = "numeric"
"""with CATEGORICAL, the two prefixes of the fields of raw attributes, such as categorical.country or numeric.age"""
FIRST_SEEN: Final = "first_seen"
LAST_SEEN: Final = "last_seen"
EVENTS_DONE: Final = "events_done"
EVENTS_RECEIVED: Final = "events_received"
DEGREE: Final = "degree"
"""number of distinct contacts"""
OPTED_OUT: Final = "opted_out"

# columns of texts, and of statements about users
PLATFORM: Final = "platform"
TEXT: Final = "text"
TITLE: Final = "title"
TAGS: Final = "tags"
STATEMENT: Final = "statement"
CONTEXT: Final = "context"
TAG_STATEMENT: Final = "interested in {}"
"""the statement that a tag becomes"""

# columns of rejected rows
FILE: Final = "file"
ROW: Final = "row"
REASON: Final = "reason"
RAW: Final = "raw"

Role = Literal["contact", "signal", "exclude"]
CONTACT: Final = "contact"
SIGNAL: Final = "signal"
EXCLUDE: Final = "exclude"
ROLES: Final = (CONTACT, SIGNAL, EXCLUDE)
"""roles of actions: contact makes two users contacts, and can be a target of prediction (a message); signal is history
only (a view); exclude keeps the two off each other's lists (a block)"""

REASONS: Final[dict[str, str]] = {  # code of a reason -> what reports and messages say
    "invalid_utf8": "the line is not valid UTF-8, or has a zero byte",
    "ragged_row": "the line has more or fewer fields than the log has columns",
    "unclosed_quote": "the line opens a quote that no later line closes",
    "actor_id_empty": "no actor id",
    "actor_id_type": "the actor id is not an integer of 64 bits, or was rounded (data.id_type)",
    "target_id_empty": "no target id",
    "target_id_type": "the target id is not an integer of 64 bits, or was rounded (data.id_type)",
    "action_empty": "no action",
    "action_unknown": "the action is not listed in data.actions",
    "timestamp_empty": "no timestamp",
    "timestamp_type": "the timestamp cannot be read in data.timestamp_unit",
    "timestamp_negative": "the timestamp lies before 1970",
    "timestamp_unit": "the timestamp lies beyond the year 2262: it is in a finer unit than data.timestamp_unit",
    "timestamp_later": "the timestamp is later than validate.latest",
    "user_id_empty": "no user id (attributes, texts, statements)",
    "user_id_type": "the user id is not an integer of 64 bits, or was rounded (data.id_type; side tables)",
    "user_id_again": "the user already has a row (attributes)",
    "number_type": "a number cannot be read; leave the field empty where it is unknown (attributes)",
    "text_empty": "no text (texts)",
    "statement_empty": "no statement (statements)",
    "not_json": "the line is not a JSON object (texts, statements)",
    "field_type": "a field holds a list or an object instead of text or a number, or an id is true or false (JSON)",
}
