"""Order, gates and parameters of runs. Owns also what surrounds a run that is started by hand.

Nothing is sent anywhere: Prefect's telemetry is off. Prefect's database lies in the project (.prefect/), so that
two checkouts never take each other's runs, and `make ui` shows the runs that were started by hand before. Who has
a Prefect server of their own sets PREFECT_API_URL, PREFECT_PROFILE or PREFECT_HOME, and these are obeyed.

All of it has to be set before Prefect is imported, which is why it happens here.
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
SURROUNDINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # 20 are too few on a busy machine
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s  %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s  %(task_run_name)s | %(message)s",
}
OWN_SERVER = {"PREFECT_HOME", "PREFECT_API_URL", "PREFECT_PROFILE"}
UI_ADDRESS = "ui-address"  # in Prefect's folder, while `make ui` runs

for _name, _value in SURROUNDINGS.items():
    os.environ.setdefault(_name, _value)
if not OWN_SERVER & os.environ.keys():
    os.environ["PREFECT_HOME"] = str(ROOT / ".prefect")


def by_hand(flow: Flow[..., Any]) -> None:
    """Runs a flow from the shell: its lines as they come, and at the end a message and exit code if it failed.

    It runs on the server of `make ui` where that is up, else on one of its own, which takes a few seconds to start.
    """
    from prefect.logging.configuration import setup_logging
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from befriend.errors import BefriendError

    parameters = _options(flow)
    address = _running_ui()
    signal.signal(signal.SIGHUP, signal.default_int_handler)  # a closed terminal ends it as Ctrl-C does
    setup_logging()
    for handler in logging.getLogger().handlers:
        handler.addFilter(_said_elsewhere)
    try:
        with temporary_settings({PREFECT_API_URL: address} if address else {}):
            if not PREFECT_API_URL.value():
                print("Prefect starts a server for this run (`make ui` keeps one running)", file=sys.stderr)
            flow(**parameters)
    except BefriendError as error:
        print(f"{flow.name}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print(f"{flow.name}: stopped. Run the same command again to go on.", file=sys.stderr)
        sys.exit(130)


def _said_elsewhere(record: logging.LogRecord) -> bool:
    """Drops log lines that only repeat others: the temporary server starting and stopping, and the two or three times
    that Prefect logs a failure before it is printed as the last line."""
    if record.name == "prefect":
        return "temporary server" not in record.getMessage()
    return record.levelno < logging.ERROR and not record.getMessage().startswith("Finished in state Failed")


def _options(flow: Flow[..., Any]) -> dict[str, Any]:
    """The flow's parameters as options of the command line: switches (--force, --no-update) and numbers (--k 5)."""
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


def _running_ui() -> str | None:
    """The API of this project's `make ui`, if it answers."""
    import urllib.request

    if "PREFECT_API_URL" in os.environ:
        return None
    try:
        address = (Path(os.environ["PREFECT_HOME"]) / UI_ADDRESS).read_text(encoding="utf-8").strip()
        with urllib.request.urlopen(f"{address}/health", timeout=2):
            return address
    except (KeyError, OSError, ValueError):
        return None
