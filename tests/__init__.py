"""The tests. The docstring of a test describes the behaviour that it verifies."""
