"""The bench runs, and cannot be fooled; no time is judged."""
