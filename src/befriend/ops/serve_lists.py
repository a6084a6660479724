"""`befriend recommend` and `befriend export`: print or write lists by the served run, and write its user vectors."""

from __future__ import annotations

import atexit
import hashlib
import tempfile
from pathlib import Path

import polars as pl
import typer
from rich.console import Console
from rich.table import Table

from befriend import files, layout
from befriend.api import Befriend, ListConstraints, RecommendOptions, Sampling
from befriend.data.erasure import read_erasure_digests
from befriend.data.renumber import renumber
from befriend.errors import DataError
from befriend.ops.recommend_call import RecommendCall
from befriend.ops.request_rows import CheckedCall
from befriend.ops.served_run import ServedRun
from befriend.ops.user_ids import read_user_ids
from befriend.progress import note
from befriend.recommendation import list_writer

SCORE_DIGITS = 8


def recommend(call: RecommendCall, served: ServedRun, checked: CheckedCall) -> None:
    """Prints lists as a table or as JSON, or writes them to a Parquet file.

    served: the run that serves the call; checked: the requests and constraints of the call.
    """
    project, requests, output = load_run(served), checked.requests, call.output
    options = RecommendOptions(
        model=call.model,
        k=call.k,
        sampling=None if call.sampling is None else Sampling(**call.sampling),
        constraints=ListConstraints(**checked.constraints),
        approximate=call.approximate,
        clusters=call.clusters,
    )
    maker = project.list_maker(options)

    def finish(lists: pl.DataFrame) -> pl.DataFrame:
        """Rounds scores, adds reasons, and reports users without an event or text before the cutoff."""
        unknown = lists.filter(~pl.col("known"))["user"].unique(maintain_order=True)
        if len(unknown):
            names = ", ".join(map(str, unknown.head(5))) + (", ..." if len(unknown) > 5 else "")
            note(f"nothing is known of {names} at that time: this is a cold-start list, without any history.")
        lists = lists.with_columns(pl.col("score").round(SCORE_DIGITS))
        if output.with_reasons:
            reasons = project.explain_lists(requests, lists, options)
            lists = lists.with_columns(why=pl.Series(reasons, dtype=pl.List(pl.String)))
        return lists if call.source.requests is not None else lists.drop("request")

    if (out := output.out) is not None:
        # Everything that the lists depend on. A later process resumes the run only if this text is the same there, so
        # options must not hold a set, whose order changes from process to process.
        inputs = f"{project.digest} {requests.rows()} {options} {output.with_reasons}"
        digest = hashlib.sha256(inputs.encode()).hexdigest()[:16]
        num_made_before = list_writer.write_lists(
            maker, requests, out, digest, finish, lambda: _check_no_new_erasure(project, checked.erased, out)
        )
        before = f" ({num_made_before:,} of them were made before)" if num_made_before else ""
        typer.echo(f"{requests.height:,} lists{before} are in {out}.")
        return
    lists = finish(project.recommend_requests(requests, options))
    if not lists.height:
        note("no user may be listed, so there are no recommendations.")
    if output.as_json:
        typer.echo(lists.with_columns(pl.col("last_active").dt.to_string("iso:strict")).write_json())
    else:
        _print(lists, with_user=call.source.user is None)


def _print(lists: pl.DataFrame, with_user: bool) -> None:
    """Prints lists as a table. with_user: whether to print the requesting user in each row."""
    with_reasons = "why" in lists.columns
    headers = ["", "recommended", "score", "contact", "last active", *(["why"] if with_reasons else [])]
    table = Table(*(["user"] if with_user else []), *headers, box=None, padding=(0, 1, int(with_reasons), 1))
    for row in lists.iter_rows(named=True):
        cells = [str(row["rank"]), str(row["recommended"]), f"{row['score']:.2f}", "yes" if row["contact"] else ""]
        cells.append(f"{row['last_active']:%Y-%m-%d %H:%M}" if row["last_active"] else "never")
        cells += ["\n".join(row["why"])] if with_reasons else []
        table.add_row(*([str(row["user"])] if with_user else []), *cells)
    Console().print(table)


def load_run(served: ServedRun) -> Befriend:
    """Loads the log and the models of the run that serves, without users who are erased in this project."""
    if served.champion is None:
        return Befriend(served.folder)
    erased = read_erasure_digests(layout.PREPARED)
    if served.prepared.parent == served.folder:
        return Befriend(served.folder, erased)
    latest = tempfile.TemporaryDirectory()  # holds personal data: removed when the process ends
    atexit.register(latest.cleanup)
    ids = read_user_ids(served.folder / layout.PREPARED)
    renumber(served.prepared, ids, Path(latest.name) / "prepared")
    return Befriend(served.folder, erased, Path(latest.name) / "prepared")


def _check_no_new_erasure(project: Befriend, erased: frozenset[str], out: Path) -> None:
    """DataError if a user was erased since the digests in `erased` were read, here or in the served run."""
    erased_now = read_erasure_digests(layout.PREPARED) | read_erasure_digests(project.root / layout.PREPARED)
    if erased_now - erased - project.erased:
        raise DataError(
            f"a user was erased while {out} was made, so it was not written. Run the same command again: it leaves out "
            "this user."
        )


def export(served: ServedRun, out: Path) -> None:
    """Writes the vectors and STUs (tokens of the semantic ID) of all users to a Parquet file, without erased users."""
    erased = read_erasure_digests(layout.PREPARED)
    project = load_run(served)
    vectors = project.vectors()
    with files.atomic(out) as path:
        vectors.write_parquet(path, compression="zstd")
        _check_no_new_erasure(project, erased, out)
    typer.echo(f"vectors and STUs of {vectors.height:,} users are in {out}.")
