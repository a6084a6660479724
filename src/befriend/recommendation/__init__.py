"""From ranked candidates to lists: options, requests, constraints, sampling, reasons."""
