"""Management: status, health, metrics. For operators and for whoever waits for a commit."""
