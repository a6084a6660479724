"""The command line: arguments and printing, one module per subject. Heavy imports stay inside the commands."""
