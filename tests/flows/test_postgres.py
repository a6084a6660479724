"""The deployments on a Prefect server whose database is PostgreSQL."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.checkout import serving, small_checkout

INITDB_PATHS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
pytestmark = [
    pytest.mark.proof,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not INITDB_PATHS, reason="needs Debian's package postgresql"),
]


@pytest.fixture
def database() -> Iterator[str]:
    """The address of an empty database on a new server. The server may not be run by root."""
    binaries = INITDB_PATHS[-1].parent
    owner = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="befriend-postgres-"))
    if owner:
        shutil.chown(folder, "postgres", "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def call(program: str, *arguments: str) -> None:
        subprocess.run(
            [binaries / program, *arguments], check=True, cwd=folder, capture_output=True, timeout=120, **owner
        )

    data = str(folder / "data")
    try:
        call("initdb", "-D", data, "--auth=trust", "--username=prefect", "--encoding=UTF8", "--locale=C")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        subprocess.run(
            [binaries / "pg_ctl", "-D", data, "-w", "-o", options, "-l", str(folder / "log"), "start"],
            check=True, cwd=folder, timeout=120, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **owner,
        )  # fmt: skip
        call("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "prefect", "prefect")
        yield f"postgresql+asyncpg://prefect:none@127.0.0.1:{port}/prefect"
        call("pg_ctl", "-D", data, "-m", "fast", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_deployments_run_on_a_server_with_postgresql(database: str, tmp_path: Path) -> None:
    project = small_checkout(tmp_path, "")
    with serving(project, PREFECT_API_DATABASE_CONNECTION_URL=database) as server:
        names = {deployment["name"] for deployment in server.post("deployments/filter")}
        assert names == {"pipeline", "validate", "retrain", "recommend"}
        run = server.start("validate", force=True)
        finished_run = server.wait_until_finished(run)
        assert finished_run["state_type"] == "COMPLETED", finished_run["state"]["message"]
        assert server.artifacts(run)["validate-report"].startswith("# Event log: accepted")
    assert not list((project.root / ".prefect").glob("*.db"))
