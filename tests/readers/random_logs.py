"""Random logs in every format and dialect that the readers know, and random damage to them.

`python -m tests.readers.random_logs 2000 10000 600` reads as many logs back, damages as many, and detects as many.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import polars as pl
import pyarrow as pa
from pyarrow import ipc, parquet

from befriend.data.columns import ACTION, ACTOR, NANOSECOND, REASON, TARGET, TIMESTAMP
from befriend.errors import BefriendError
from befriend.ops.detect import Hints, detect
from befriend.progress import track
from befriend.readers import text_files
from befriend.readers.data_settings import DataSettings
from befriend.readers.sources import read_chunks
from befriend.settings import parse
from befriend.validation.row_rules import check_event_rows

NANOSECONDS = 10**9
QUOTE = '"'
LETTERS = "abcxyzABC0189äéßжш猫🙂"
INNER = LETTERS + "-_.@+#%'"
WORDS_WITH_MARKS = [
    'say "hi", ok',
    "a;b|c\td",
    "two\nlines",
    "# no comment",
    "x::y",
    'back\\slash and \\"',
    "  blanks  ",
    "",
]
ACTIONS = ["like", "follow", "friend request", "größer", "a,b"]


@dataclass
class RandomLog:
    """A log on disk, how to read it, and its events as (actor, action, target, second, nanosecond)."""

    source: Path
    settings: DataSettings
    events: list[tuple[Any, ...]]

    def read(self) -> list[tuple[Any, ...]]:
        """The accepted events, in the order of the log."""
        return read_events(self.settings, self.source)[0]


def read_events(settings: DataSettings, source: Path) -> tuple[list[tuple[Any, ...]], int, int]:
    """The accepted events, the number of rejected rows, and that of comments."""
    events: list[tuple[Any, ...]] = []
    num_rejected = num_comments = 0
    for chunk in read_chunks(settings, source):
        rows = check_event_rows(chunk.rows, settings, None)
        accepted = rows.filter(pl.col(REASON).is_null())
        events += accepted.select(ACTOR, ACTION, TARGET, TIMESTAMP, NANOSECOND).rows()
        num_rejected += rows.height - accepted.height
        num_comments += chunk.num_comments
    return events, num_rejected, num_comments


def write_random_log(seed: int, folder: Path, sizes: tuple[int, int] = (2, 40)) -> RandomLog:
    """Writes a random log into an empty folder; equal seeds give equal logs. sizes: of its first file, in events."""
    rng = random.Random(seed)
    file_format = rng.choice(["csv", "csv", "csv", "whitespace", "jsonl", "parquet", "arrow"])
    ids, id_type = _random_ids(rng, file_format)
    unit, to_raw = _random_unit(rng, file_format)
    has_action = rng.random() < 0.5
    is_partitioned = has_action and file_format != "whitespace" and rng.random() < 0.3
    has_names = file_format in ("jsonl", "parquet", "arrow") or is_partitioned or rng.random() < 0.6
    writer = _Writer(rng, file_format, has_names, unit, id_type, has_action, is_partitioned, to_raw)
    num_files = rng.choice([1, 1, 2, 3])
    source = folder / ("log" if num_files == 1 and not is_partitioned else "")
    events_by_file: dict[Path, list[tuple[Any, ...]]] = {}
    second = rng.randrange(10**8, 1_900_000_000)
    for part in range(num_files):
        action = rng.choice(ACTIONS)
        file = folder / "log" if source != folder else folder / f"part-{part}.txt"
        if is_partitioned:
            file = folder / f"action={action.replace(',', '%2C').replace(' ', '%20')}" / f"part-{part}.txt"
        events = []
        for _ in range(rng.choice([0, 1, 5, 30]) if part else rng.randrange(*sizes)):
            second = min(second + rng.randrange(0, 10**5), 4_000_000_000)
            row_action = action if is_partitioned else rng.choice(ACTIONS) if has_action else "event"
            if file_format == "whitespace":
                row_action = row_action.replace(" ", "_")
            nanosecond = second * NANOSECONDS + writer.fraction()
            events.append((rng.choice(ids), row_action, rng.choice(ids), second, nanosecond))
        file.parent.mkdir(parents=True, exist_ok=True)
        writer.write(file, events)
        events_by_file[file] = events
    if source == folder and file_format in ("csv", "whitespace") and rng.random() < 0.3:
        (folder / "part-9.txt").touch()
    return RandomLog(
        source if source != folder else folder,
        writer.settings(),
        [e for _, events in sorted(events_by_file.items()) for e in events],
    )


def _random_ids(rng: random.Random, file_format: str) -> tuple[list[Any], str]:
    """Ids of one kind, in their own spelling, and the type of ids that reads them."""
    kind = rng.choice(["integer", "large", "padded", "word", "uuid"])
    count = rng.choice([3, 8, 30])
    if kind == "integer":
        return [rng.choice([k, -k, 2**62 + k]) for k in range(count)], "integer"
    if kind == "large":
        return [str(2**63 + k) for k in range(count)], "string"
    if kind == "padded":
        return [f"00{k}" for k in range(count)], "string"
    if kind == "uuid":
        return [str(UUID(int=rng.getrandbits(128))) for _ in range(count)], "string"
    inner = INNER + ("" if file_format == "whitespace" else " ,;|\t:")
    words = [
        f"{rng.choice(LETTERS)}{''.join(rng.choices(inner, k=rng.randrange(6)))}{rng.choice(LETTERS)}z"
        for _ in range(count)
    ]
    return words, "string"


def _random_unit(rng: random.Random, file_format: str) -> tuple[str, Callable[[int], Any]]:
    """A timestamp unit, and the function that writes UTC nanoseconds in it; `|` parts a date and a time of day."""
    unit = rng.choice(["s", "s", "ms", "us", "ns", "iso", "iso", "%d/%m/%Y %H:%M:%S", "apart"])
    if file_format == "whitespace" and unit.startswith("%"):
        unit = "%d/%m/%Y-%H:%M:%S"
    scale = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}.get(unit)
    if scale is not None:
        if unit == "s" and file_format in ("csv", "whitespace") and rng.random() < 0.3:
            return unit, lambda ns: f"{ns // NANOSECONDS}.{ns % NANOSECONDS:09d}"
        return unit, lambda ns: ns // scale
    if unit == "iso":
        zone = timezone(timedelta(hours=rng.choice([0, 2, -7])))
        blank = "T" if file_format == "whitespace" or rng.random() < 0.5 else " "

        def to_iso(ns: int) -> str:
            moment = datetime.fromtimestamp(ns // NANOSECONDS, UTC).astimezone(zone)
            fraction = f".{ns % NANOSECONDS // 1000:06d}" if ns % NANOSECONDS else ""
            return moment.strftime(f"%Y-%m-%d{blank}%H:%M:%S{fraction}%z")

        return unit, to_iso
    if unit == "apart":
        return unit, lambda ns: datetime.fromtimestamp(ns // NANOSECONDS, UTC).strftime("%Y-%m-%d|%H:%M:%S")
    return unit, lambda ns: datetime.fromtimestamp(ns // NANOSECONDS, UTC).strftime(unit)


class _Writer:
    """Writes the files of one log, all in one dialect."""

    def __init__(
        self,
        rng: random.Random,
        file_format: str,
        has_names: bool,
        unit: str,
        id_type: str,
        has_action: bool,
        is_partitioned: bool,
        to_raw: Callable[[int], Any],
    ):
        self.rng, self.format, self.has_names, self.unit, self.id_type = rng, file_format, has_names, unit, id_type
        self.to_raw = to_raw
        fields = [ACTOR, TARGET, TIMESTAMP]
        fields += ["time_of_day"] if unit == "apart" else []
        fields += [ACTION] if has_action and not is_partitioned else []
        self.partition = is_partitioned
        extra = ["note", "weight"] if file_format != "whitespace" else ["weight"]
        self.order = fields + rng.sample(extra, rng.randrange(len(extra) + 1))
        rng.shuffle(self.order)
        self.names = {ACTOR: "from", TARGET: "to", TIMESTAMP: "when", "time_of_day": "clock", ACTION: "action"}
        if file_format == "jsonl" and rng.random() < 0.5:
            self.names |= {ACTOR: "payload.user.id", TARGET: "payload.target"}
        self.separator = rng.choice([",", ",", "\t", ";", "|", "::"])
        self.quoting = rng.choice(["minimal", "all"])
        self.escape = "\\" if rng.random() < 0.2 and len(self.separator) == 1 else None
        self.line_end = rng.choice(["\n", "\n", "\r\n"])
        self.pad = rng.random() < 0.3
        self.codec = rng.choice(["utf-8"] * 4 + ["utf-8-sig", "utf-16", "utf-16-le"])
        self.compression = rng.choice([None, None, "gzip", "bzip2", "xz", "zstd", "zip"])

    def fraction(self) -> int:
        """A random fraction of a second in nanoseconds, as fine as the unit."""
        steps = {"ms": 10**3, "us": 10**6, "ns": 10**9, "iso": 10**6}.get(self.unit, 1)
        if self.unit == "s" and isinstance(self.to_raw(0), str):
            steps = 10**9
        if self.format in ("parquet", "arrow") and self.unit == "iso":
            steps = 1
        return self.rng.randrange(steps) * (NANOSECONDS // steps)

    def settings(self) -> DataSettings:
        """How to read the files."""
        columns: dict[str, Any] = {ACTION: "action" if self.partition else None}
        for number, field in enumerate(self.order, 1):
            if field in self.names:
                columns[field] = self.names[field] if self.has_names else number
        raw = {
            "format": self.format,
            "columns": columns,
            "id_type": self.id_type,
            "timestamp_unit": "iso" if self.unit == "apart" else self.unit,
        }
        if self.format == "csv":
            raw |= {"separator": self.separator, "escape": self.escape}
        return parse(DataSettings, raw, "a random log")

    def write(self, file: Path, events: list[tuple[Any, ...]]) -> None:
        """Writes a file of events."""
        rows = [self._row(*event) for event in events]
        if self.format in ("parquet", "arrow"):
            self._write_table(file, rows)
            return
        to_text = {"csv": self._csv, "whitespace": self._whitespace, "jsonl": self._jsonl}[self.format]
        text = to_text(rows)
        if self.rng.random() < 0.3:
            text = text.removesuffix(self.line_end)
        content = text.encode(self.codec)
        if self.codec == "utf-16-le" and len(text) < 20:
            content = text.encode()  # too short to be told without a byte order mark
        file.write_bytes(_compress(content, self.compression))

    def _row(self, actor: Any, action: str, target: Any, _: int, nanosecond: int) -> dict[str, Any]:
        """Field -> raw value."""
        time = self.to_raw(nanosecond)
        date, _, time_of_day = str(time).partition("|")
        return {
            ACTOR: actor,
            TARGET: target,
            ACTION: action,
            TIMESTAMP: date if self.unit == "apart" else time,
            "time_of_day": time_of_day,
            "note": self.rng.choice(WORDS_WITH_MARKS),
            "weight": self.rng.randrange(-3, 3),
        }

    def _csv(self, rows: list[dict[str, Any]]) -> str:
        lines = [f"# exported{self.line_end}"] if self.rng.random() < 0.2 else []
        if self.has_names:
            lines.append(self._csv_line([self.names.get(field, field) for field in self.order]))
        elif rows and rows[0]["note"].startswith("#"):
            rows[0]["note"] = ""  # what looks like a comment above the first row is one
        for row in rows:
            lines.append(self._csv_line([str(row[field]) for field in self.order]))
            if self.rng.random() < 0.05:
                lines.append(self.line_end)
        return "".join(lines)

    def _csv_line(self, values: list[str]) -> str:
        fields = []
        for value in values:
            marks = (self.separator, '"', "\n", "\r", *("\\" if self.escape else ()))
            must_quote = self.quoting == "all" or any(mark in value for mark in marks) or value != value.strip()
            if must_quote:
                escaped = value.replace("\\", "\\\\").replace('"', '\\"')
                value = f'"{escaped if self.escape else value.replace(QUOTE, 2 * QUOTE)}"'
            fields.append(f" {value} " if self.pad else value)
        return self.separator.join(fields) + self.line_end

    def _whitespace(self, rows: list[dict[str, Any]]) -> str:
        lines = ["% sym", "#", "# a comment"] if self.rng.random() < 0.3 else []
        if self.has_names:
            lines.append(" ".join(self.names.get(field, field) for field in self.order))
        for row in rows:
            blanks = [self.rng.choice([" ", "\t", "  ", " \t"]) for _ in self.order]
            line = "".join(blank + str(row[field]) for blank, field in zip(blanks, self.order, strict=True))
            lines.append(line if self.pad else line.strip())
            if self.rng.random() < 0.05:
                lines.append("# a comment between rows")
        return "".join(line + self.line_end for line in lines)

    def _jsonl(self, rows: list[dict[str, Any]]) -> str:
        lines = []
        for row in rows:
            item: dict[str, Any] = {}
            for field in self.order:
                *path, name = self.names.get(field, field).split(".")
                inner = item
                for key in path:
                    inner = inner.setdefault(key, {})
                inner[name] = row[field]
            lines.append(json.dumps(item, ensure_ascii=self.rng.random() < 0.5) + self.line_end)
        return "".join(lines)

    def _write_table(self, file: Path, rows: list[dict[str, Any]]) -> None:
        """Writes Parquet or Arrow, with ids and times in one of the types that other tools choose."""
        columns = {self.names.get(field, field): [row[field] for row in rows] for field in self.order}
        table = pa.table({name: self._column(name, values) for name, values in columns.items()})
        if self.format == "parquet":
            parquet.write_table(table, file, row_group_size=7)
            return
        with ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)

    def _column(self, name: str, values: list[Any]) -> Any:
        if name in (self.names[ACTOR], self.names[TARGET]):
            if self.id_type == "integer":
                return pa.array(values, pa.int64()).cast(
                    self.rng.choice([pa.int64(), pa.decimal128(38, 0), pa.string()])
                )
            return pa.array(values, self.rng.choice([pa.string(), pa.large_string(), pa.binary()]))
        if name == self.names[TIMESTAMP] and self.unit == "iso":
            moments = [datetime.fromisoformat(value).astimezone(UTC).replace(tzinfo=None) for value in values]
            return pa.array(moments, pa.timestamp("us", self.rng.choice([None, "UTC", "Europe/Rome"])))
        if name == self.names[TIMESTAMP] and self.unit in ("s", "ms", "us", "ns"):
            return pa.array(values, pa.int64()).cast(self.rng.choice([pa.int64(), pa.uint64(), pa.string()]))
        if name == "clock":
            return pa.array([datetime.strptime(value, "%H:%M:%S").time() for value in values], pa.time64("us"))
        return pa.array([str(value) for value in values], pa.string())


def _compress(content: bytes, compression: str | None) -> bytes:
    if compression == "zstd":
        return bytes(pa.Codec("zstd").compress(content, asbytes=True))
    if compression == "zip":
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("log.csv", content)
        return packed.getvalue()
    functions = {None: bytes, "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lambda text: lzma.compress(text, preset=0)}
    return functions[compression](content)


def damage(content: bytes, rng: random.Random) -> bytes:
    """Random damage, as files have that were cut, joined, edited by hand or stored badly."""
    for _ in range(rng.choice([1, 1, 2, 5])):
        k = rng.randrange(len(content) + 1)
        n = rng.choice([1, 1, 2, 10, 200])
        mark = rng.choice(
            [
                b'"',
                b"'",
                b"\\",
                b",",
                b"\t",
                b"\n",
                b"\r",
                b"\x00",
                b"\xff",
                b"\xc3",
                b"#",
                b" ",
                b"{",
                b"1",
                "\u2028".encode(),
            ]
        )
        content = rng.choice(
            [
                content[:k] + content[k + n :],
                content[:k],
                content[:k] + mark * n + content[k:],
                content[:k] + mark + content[k + 1 :],
                content[:k] + content[max(0, k - n) : k + n] + content[k:],
                content.replace(b"\n", b"\r\n", rng.randrange(3)),
            ]
        )
    return content


def reference_rows(content: bytes, settings: DataSettings) -> list[list[str] | None]:
    """The fields of each row of a plain UTF-8 text, by the csv and json modules; None for a row that cannot be read."""
    lines = content.removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").split(b"\n") if content else []
    texts = [line.removesuffix(b"\r").decode(errors="backslashreplace") for line in lines]
    is_invalid = [not _is_utf_8(line) for line in lines]
    if settings.format == "jsonl":
        pairs = zip(texts, is_invalid, strict=True)
        return [None if invalid else _json_fields(text, settings) for text, invalid in pairs if text.strip()]
    rows: list[list[str] | None] = []
    k, is_above = 0, True
    while k < len(texts):
        text, end = texts[k], k + 1
        is_comment = bool(text.split()) and set(text.split()[0]) <= set("#%")
        if not text.strip(" ") or (is_comment and (is_above or settings.format == "whitespace")):
            k += 1
            continue
        fields: list[str] | None = _words(text)
        if settings.format == "csv":
            end, fields = _csv_record(texts, k, settings)
        rows.append(None if any(is_invalid[k:end]) else fields)
        is_above = False
        k = end
    return rows


def _is_utf_8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _words(text: str) -> list[str]:
    words: list[str] = []
    while text := text.lstrip():
        end = text.find('"', 1) + 1 if text[0] == '"' else 0
        word = text[:end] if end else text.split(maxsplit=1)[0]
        words.append(word)
        text = text[len(word) :]
    return words


def _csv_record(texts: list[str], k: int, settings: DataSettings) -> tuple[int, list[str] | None]:
    """The line after the record that begins in line k, and its fields; None if its quotes are never closed."""
    separator = settings.separator if len(settings.separator) == 1 else "\x1f"

    def fields(lines: list[str], strict: bool) -> list[str]:
        text = "\n".join(lines)
        if separator != settings.separator:
            text = text.replace(settings.separator, separator)
        options = {"delimiter": separator, "escapechar": settings.escape, "skipinitialspace": True, "strict": strict}
        text = re.sub(f'" +(?={re.escape(separator)}|$)', '"', text)  # the module takes no blank after a quote
        return next(csv.reader(io.StringIO(text, newline="\n"), **options), [])  # type: ignore[arg-type]

    def is_open(error: csv.Error) -> bool:
        return str(error) == "unexpected end of data"

    for strict in (True, False):
        try:
            return k + 1, fields(texts[k : k + 1], strict)
        except csv.Error as error:
            if is_open(error):
                break
    else:
        return k + 1, []
    for end in range(k + 2, len(texts) + 1):
        try:
            return end, fields(texts[k:end], True)
        except csv.Error as error:
            if not is_open(error):
                break
    return k + 1, None


def _json_fields(text: str, settings: DataSettings) -> list[str] | None:
    try:
        item = json.loads(text, parse_float=str, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    if not isinstance(item, dict):
        return None
    values = []
    for _, column in settings.columns:
        value: Any = item
        for key in str(column).split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, dict | list):
            return None
        if column is not None:
            values.append("" if value is None else str(value).lower() if isinstance(value, bool) else str(value))
    return values


def reference_events(content: bytes, settings: DataSettings) -> tuple[list[tuple[Any, ...]], int]:
    """The accepted events of a plain UTF-8 text, and the number of rejected rows, by the plainest means."""
    rows = reference_rows(content, settings)
    if not rows:
        return [], 0
    fields = [field for field, column in settings.columns if column is not None]
    columns = [column for _, column in settings.columns if column is not None]
    if settings.format == "jsonl":
        width = len(columns)
        places = list(range(width))
    else:
        names: list[str] = []
        if settings.has_column_names:
            names = [name.strip() for name in rows.pop(0) or []]
            if settings.format == "whitespace":
                names = [name.strip('"') for name in names]
        widths = [len(row) for row in rows if row is not None]
        width = max(set(widths), key=lambda w: (widths.count(w), w), default=0)
        if settings.format == "whitespace" and width == len(names) + 1:
            names.insert(0, "")
        places = [names.index(str(column)) if names else int(column) - 1 for column in columns]
    whole = [[row[place].strip() for place in places] for row in rows if row is not None and len(row) == width]
    table = pl.DataFrame(whole, schema=dict.fromkeys(fields, pl.String), orient="row")
    if ACTION not in table.columns:
        table = table.with_columns(pl.lit("event").alias(ACTION))
    table = table.with_row_index("row", 1).with_columns(pl.lit(None, pl.String).alias(REASON))
    checked = check_event_rows(table, settings, None)
    accepted = checked.filter(pl.col(REASON).is_null()).select(ACTOR, ACTION, TARGET, TIMESTAMP, NANOSECOND).rows()
    return accepted, len(rows) - len(accepted)


def check_round_trip(seed: int, folder: Path) -> None:
    """Fails unless a random log is read back event for event, whatever the size of the blocks it is read in."""
    log = write_random_log(seed, folder)
    text_files.BLOCK_BYTES = random.Random(seed).choice([100, 1000, 1 << 26, 1 << 26])
    events, num_rejected, _ = read_events(log.settings, log.source)
    assert (events, num_rejected) == (log.events, 0), f"seed {seed}: {log.settings}"


def check_damaged(seed: int, folder: Path) -> bool:
    """Fails unless a damaged log is refused, or its rows are those of the reference. Returns whether it was read."""
    log = write_random_log(seed, folder)
    rng = random.Random(-seed)
    file = rng.choice([path for path in sorted(folder.rglob("*")) if path.is_file()])
    content = damage(file.read_bytes(), rng)
    file.write_bytes(content)
    text_files.BLOCK_BYTES = 1 << 26
    try:
        events, num_rejected, _ = read_events(log.settings, log.source)
    except BefriendError:
        return False
    if log.source.is_file() and log.settings.format in ("csv", "whitespace", "jsonl") and _is_plain(content):
        assert (events, num_rejected) == reference_events(content, log.settings), f"seed {seed}: {log.settings}"
    return True


def check_detected(seed: int, folder: Path) -> bool:
    """Fails if `befriend use` would misread a random log. Returns False if it would ask, or refuse the log.

    Names of columns are given, as a user gives roles. Without names, actor and target may change places: which of two
    columns of ids acts cannot be told.
    """
    log = write_random_log(seed, folder, sizes=(200, 300))
    columns = {field: str(column) for field, column in log.settings.columns if column is not None}
    unit = log.settings.timestamp_unit if "%" in log.settings.timestamp_unit else None
    try:
        settings = detect(log.source, Hints(columns if log.settings.has_column_names else {}, unit))
    except BefriendError:
        return False
    events, num_rejected, _ = read_events(settings, log.source)
    if num_rejected > 0.01 * len(log.events):
        return False
    found = [(str(actor), str(target), *times) for actor, _, target, *times in events]
    expected = [(str(actor), str(target), *times) for actor, _, target, *times in log.events]
    changed = [(target, actor, *times) for actor, target, *times in expected]
    allowed = [expected] if log.settings.has_column_names else [expected, changed]
    assert num_rejected == 0 and found in allowed, f"seed {seed}: {settings}, not {log.settings}"
    return True


def _is_plain(content: bytes) -> bool:
    """Whether a file is neither compressed nor in UTF-16."""
    magic = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK", b"\xff\xfe", b"\xfe\xff")
    return not content.startswith(magic) and b"\x00" not in content


def main(num_logs: int, num_damaged: int, num_detected: int) -> None:
    """Checks as many random logs, damaged ones, and ones to detect; prints what was found. Stops at a difference."""

    def count(check: Callable[[int, Path], bool | None], number: int) -> int:
        num_true = 0
        for seed in track(range(number), check.__name__):
            with tempfile.TemporaryDirectory() as folder:
                num_true += bool(check(seed, Path(folder)))
        return num_true

    count(check_round_trip, num_logs)
    print(f"{num_logs:,} logs read back without a difference")
    print(
        f"of {num_damaged:,} damaged logs {count(check_damaged, num_damaged):,} read, without a difference; others refused"
    )
    print(
        f"of {num_detected:,} logs {count(check_detected, num_detected):,} detected, without a difference; others asked about"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
