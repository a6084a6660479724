"""Commands on a whole project: read a log, show or compare runs, promote a run. Only this package calls DVC."""
