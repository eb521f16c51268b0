"""The core, by tables."""
