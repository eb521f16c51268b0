"""Judges that need more than PyPI."""
