"""What a user does to a project: point it at a log, read a run, promote a run. Only this package calls DVC."""
