"""From ranked candidates to lists: options, requests, business rules, sampling, reasons."""
