"""Tests of the container image, by Podman: `tox -e container`."""
