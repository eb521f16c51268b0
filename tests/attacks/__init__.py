"""Attacks on the deployed interfaces, and similar valid requests that must succeed."""
