"""Tests of where the CA is stored."""
