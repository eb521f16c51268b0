"""Tests of the core, most of them tables."""
