"""The benchmark runs, and detects invalid measurements; times are not checked."""
