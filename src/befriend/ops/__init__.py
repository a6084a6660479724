"""What a person does to a project: pointing it at a log, reading a run. The only rooms that call DVC."""
