"""Prefect flows: in which order tasks run. This module configures Prefect, and runs a flow from the shell.

Prefect's telemetry is off. Prefect's database is in the project (.prefect/), so that two checkouts never take each
other's runs, and `make ui` also shows runs that you started from the shell. If you have a Prefect server, set
PREFECT_API_URL, PREFECT_PROFILE or PREFECT_HOME, and it is used instead.

These environment variables have to be set before Prefect is imported, so they are set here.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect import Flow

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT_DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # `prefect deployment run --watch` shows the log of the run, not only its events
    "PREFECT_SERVER_LOGS_STREAM_OUT_ENABLED": "true",
    "PREFECT_SERVER_LOGS_STREAM_PUBLISHING_ENABLED": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # the default of 20 is too short on a busy machine
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s  %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s  %(task_run_name)s | %(message)s",
}
SERVER_VARIABLES = {"PREFECT_HOME", "PREFECT_API_URL", "PREFECT_PROFILE"}
UI_ADDRESS = "ui-address"  # file in Prefect's folder with the address of the API, while `make ui` runs

for _name, _value in ENVIRONMENT_DEFAULTS.items():
    os.environ.setdefault(_name, _value)
if not SERVER_VARIABLES & os.environ.keys():
    os.environ["PREFECT_HOME"] = str(ROOT / ".prefect")


def run_from_shell(flow: Flow[..., Any]) -> None:
    """Runs a flow with the parameters on the command line, and prints its log. If it fails, exits with a message.

    Uses the server of `make ui` if that is running; otherwise starts a server, which takes a few seconds.
    """
    from prefect.logging.configuration import setup_logging
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from befriend.errors import BefriendError

    parameters = _parse_parameters(flow)
    address = _running_ui_address()
    signal.signal(signal.SIGHUP, signal.default_int_handler)  # closing the terminal has the effect of Ctrl-C
    setup_logging()
    for handler in logging.getLogger().handlers:
        handler.addFilter(_adds_information)
    try:
        with temporary_settings({PREFECT_API_URL: address} if address else {}):
            if not PREFECT_API_URL.value():
                print("Prefect starts a server for this run (`make ui` keeps one running)", file=sys.stderr)
            flow(**parameters)
    except BefriendError as error:
        print(f"{flow.name}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print(f"{flow.name}: stopped. Run the same command again to continue.", file=sys.stderr)
        sys.exit(130)


def _adds_information(record: logging.LogRecord) -> bool:
    """Whether to print a log record. False for the start and stop of a temporary server, and for a failure of the flow,
    which Prefect logs two or three times, and `run_from_shell` prints as the last line."""
    if record.name == "prefect":
        return "temporary server" not in record.getMessage()
    return record.levelno < logging.ERROR and not record.getMessage().startswith("Finished in state Failed")


def _parse_parameters(flow: Flow[..., Any]) -> dict[str, Any]:
    """Reads the parameters of a flow from the command line: switches (--force, --no-update) and numbers (--k 5)."""
    import argparse
    import inspect

    parser = argparse.ArgumentParser(
        prog=f"python -m flows.{flow.name}",
        description=inspect.getdoc(flow.fn),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, parameter in inspect.signature(flow.fn).parameters.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(parameter.default, bool):
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=parameter.default)
        else:
            parser.add_argument(option, type=type(parameter.default), default=parameter.default)
    return vars(parser.parse_args())


def _running_ui_address() -> str | None:
    """The address of the API of this project's `make ui`; None if it does not answer."""
    import urllib.request

    if "PREFECT_API_URL" in os.environ:
        return None
    try:
        address = (Path(os.environ["PREFECT_HOME"]) / UI_ADDRESS).read_text(encoding="utf-8").strip()
        with urllib.request.urlopen(f"{address}/health", timeout=2):
            return address
    except (KeyError, OSError, ValueError):
        return None
