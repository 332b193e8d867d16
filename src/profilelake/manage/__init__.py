"""Management: status, health, metrics, sources and tokens, and what is told of all that is served."""
