"""Runs the command line as `python -m befriend.cli`."""

from befriend.cli.main import main

main()
