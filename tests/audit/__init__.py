"""Checks of what is shipped: licences, SBOM, secrets and core files."""
