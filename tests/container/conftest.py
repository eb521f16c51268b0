"""The image, which is built once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.container.engine import Engine


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Podman with a base image of Debian's packages."""
    engine = Engine(tmp_path_factory.mktemp("podman"))
    engine.create()
    yield engine
    engine.delete()
