"""Fuzzing with Schemathesis, from the contract."""
