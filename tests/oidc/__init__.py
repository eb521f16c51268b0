"""Tests of `service.oidc`."""
