"""The proofs. Each test's docstring states the law that it checks."""
