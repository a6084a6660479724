"""The command line: arguments and printing, a module per subject. Heavy imports are inside the commands."""
