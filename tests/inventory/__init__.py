"""Tests of the inventory: its rules, its files and its query of CloudWatch Logs."""
