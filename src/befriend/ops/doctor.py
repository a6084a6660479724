"""`befriend doctor`: the machine, the packages and the project, what is missing, and what to type for each."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from befriend import layout
from befriend.config import load_params
from befriend.errors import CallError, DataError, SettingsError
from befriend.files import to_json
from befriend.ops import machine, project_state


@dataclass(frozen=True)
class Finding:
    """Something that is missing or out of date."""

    problem: str
    remedy: str
    """what to type or to do"""
    is_needed: bool
    """false for what befriend does without"""


def diagnose(root: Path) -> dict[str, Any]:
    """The state of the machine and of the project in `root`, as in JSON.

    Keys: machine, as of `befriend.ops.machine.describe_machine`; project, see `_describe_project`; missing, a list of
    the fields of Finding.
    """
    project, findings = _describe_project(root)
    findings = [*_missing_software(), *findings]
    return {
        "machine": machine.describe_machine(root),
        "project": project,
        "missing": [asdict(finding) for finding in findings],
    }


def run(root: Path, as_json: bool) -> int:
    """Prints the diagnosis. Returns the exit code: 1 if something needed is missing, else 0."""
    diagnosis = diagnose(root)
    typer.echo(to_json(diagnosis) if as_json else "\n".join(_to_lines(diagnosis)))
    return int(any(finding["is_needed"] for finding in diagnosis["missing"]))


def _missing_software() -> list[Finding]:
    packages, programs = machine.missing_packages(), machine.missing_programs()
    findings = []
    if packages:
        install = f"{sys.executable} -m pip install {' '.join(packages)}"
        findings.append(Finding(f"packages that are not installed: {', '.join(packages)}", install, True))
    if "git" in programs:
        findings.append(Finding("git is not on the PATH", "install git, for example: apt-get install git", True))
    if "dvc" in programs and "dvc" not in packages:
        remedy = f"{sys.executable} -m pip install --force-reinstall dvc"
        findings.append(Finding(f"there is no program dvc beside {sys.executable}", remedy, True))
    return findings


def _describe_project(root: Path) -> tuple[dict[str, Any], list[Finding]]:
    """The state of the project, and what it lacks.

    Keys of the state: folder; is_project, and for a project: log, run (complete, outdated), champion.
    """
    state: dict[str, Any] = {"folder": str(root.resolve()), "is_project": layout.is_project(root)}
    try:
        layout.require_project(root)
    except CallError as error:
        problem, _, remedy = str(error).partition(". ")
        return state, [Finding(problem, remedy, True)]
    state |= {"log": None, "run": None, "champion": project_state.describe_champion(root)}
    findings = []
    try:
        if (root / layout.PARAMS).is_file():
            load_params(root / layout.PARAMS)
        state["log"] = project_state.describe_log(root)
        state["run"] = _describe_run(root)
    except SettingsError as error:
        remedy = f"correct {layout.PARAMS}; befriend settings lists all settings"
        findings.append(Finding(str(error), remedy, True))
    except DataError as error:
        findings.append(Finding(str(error), "correct it; git diff dvc.yaml dvc.lock data.dvc shows changes", True))
    else:
        findings += _log_findings(state["log"]) or _run_findings(root, state["run"], state["log"])
    return state, [*findings, *_champion_findings(state["champion"], state["run"])]


def _describe_run(root: Path) -> dict[str, Any]:
    """Whether the run is complete, and the stages that are out of date, by dvc.lock."""
    complete = not project_state.missing_outputs(root)
    compared = complete and (root / project_state.LOCK_FILE).is_file()
    return {"complete": complete, "outdated": project_state.outdated_stages(root) if compared else {}}


def _log_findings(log: dict[str, Any] | None) -> list[Finding]:
    return [] if log else [Finding("the project has no log", "befriend use SOURCE, or befriend use --sample", True)]


def _run_findings(root: Path, run: dict[str, Any], log: dict[str, Any]) -> list[Finding]:
    if log.get("refused"):
        remedy = f"correct the log, or params.yaml ({layout.VALIDATION_REPORT} says what is wrong), then make run"
        return [Finding("the log was refused", remedy, True)]
    damaged = project_state.damaged_outputs(root)
    if damaged:
        return [Finding(f"{damaged[0]} is damaged", f"rm {damaged[0]}, then make run", True)]
    if not run["complete"]:
        missing, unfinished = project_state.missing_outputs(root), project_state.unfinished_stage(root)
        why = f"; {unfinished}" if unfinished else ""
        return [Finding(f"the run is not complete: there is no {missing[0]}{why}", "make run", True)]
    if run["outdated"]:
        reasons = "; ".join(f"{stage}: {reason}" for stage, reason in run["outdated"].items())
        return [Finding(f"the run is out of date ({reasons})", "make run", False)]
    if not log["is_here"]:
        return [Finding(f"there is no {layout.DATA}/, from which a new run would start", "make run", False)]
    return []


def _champion_findings(champion: dict[str, Any] | None, run: dict[str, Any] | None) -> list[Finding]:
    if champion is None:
        if run is None or not run["complete"]:
            return []
        problem = "there is no champion, so `befriend recommend` uses the run in this folder"
        return [Finding(problem, "befriend gate, then befriend promote", False)]
    if "problem" in champion:
        return [Finding(champion["problem"], "befriend rollback --to NUMBER", True)]
    return []


def _to_lines(diagnosis: dict[str, Any]) -> list[str]:
    """The diagnosis as text."""
    of_machine, missing = diagnosis["machine"], diagnosis["missing"]
    versions = ", ".join(f"{name} {version or 'missing'}" for name, version in of_machine["packages"].items())
    processor, memory, disk = of_machine["processor"], of_machine["memory"], of_machine["disk"]
    available = f", {memory['available']} GB available" if "available" in memory else ""
    lines = [
        f"befriend   {of_machine['befriend'] or 'not installed'}, Python {of_machine['python']} in "
        f"{of_machine['environment']}",
        f"packages   {versions}",
        f"GPU        {_cuda(of_machine['cuda'])}",
        f"processor  {processor['name']}, {processor['usable_cores']} of {processor['cores']} cores usable",
        f"memory     {memory['total']} GB{available}",
        f"disk       {disk['free']} GB free here",
        *_project_lines(diagnosis["project"]),
        "",
    ]
    if not missing:
        return [*lines, "Nothing is missing."]
    for finding in missing:
        lines += [f"{'missing' if finding['is_needed'] else 'note'}: {finding['problem']}", f"  -> {finding['remedy']}"]
    return lines


def _cuda(cuda: dict[str, Any]) -> str:
    """Whether an NVIDIA GPU is used, and how that is known."""
    build = f"is built for CUDA {cuda['built_for']}" if cuda["built_for"] else "is built without CUDA"
    driver = "there is an NVIDIA driver" if cuda["driver"] else "there is no NVIDIA driver"
    use = "CUDA is used" if cuda["used"] else "CUDA is not used"
    return f"{use}: PyTorch {build} (its version.py), {driver} ({machine.NVIDIA_DRIVER})"


def _project_lines(project: dict[str, Any]) -> list[str]:
    if not project["is_project"]:
        return [f"project    {project['folder']} is none"]
    log, run, champion = project["log"], project["run"], project["champion"]
    served = "none" if champion is None else champion.get("problem")
    served = served or f"number {champion['number']}, promoted {champion['promoted']}"
    return [
        f"project    {project['folder']}",
        f"log        {_log_line(log) if log else 'none'}",
        f"run        {_run_line(run) if run else 'unknown'}",
        f"champion   {served}",
    ]


def _log_line(log: dict[str, Any]) -> str:
    source = f"from {log['source']}" if log["source"] else f"in {layout.DATA}/"
    if "events" not in log:
        return f"not validated yet, {source}"
    first, last = (f"{datetime.fromtimestamp(log[end], UTC):%Y-%m-%d}" for end in ("first", "last"))
    return f"{log['events']:,} events of {log['users']:,} users, {first} to {last}, {source}"


def _run_line(run: dict[str, Any]) -> str:
    if not run["complete"]:
        return "not complete"
    if run["outdated"]:
        return "out of date"
    return "up to date with the log and the settings, by dvc.lock (for changes of code: dvc status)"
