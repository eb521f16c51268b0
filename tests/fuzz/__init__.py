"""Schemathesis, from the contract."""
