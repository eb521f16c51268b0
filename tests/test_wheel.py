from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from tests import csrs, servers


def test_wheel_serves_outside_of_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel contains the contract and all modules: an installation elsewhere serves and signs."""
    source = tmp_path / "source"
    servers.run("git", "clone", "--quiet", servers.ROOT, source)
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(tmp_path)!r})"
    servers.run(sys.executable, "-c", build, cwd=source)
    (wheel,) = tmp_path.glob("certlet-*.whl")
    target = tmp_path / "target"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(target)
    modules = {path.relative_to(source).as_posix() for path in (source / "service").rglob("*.py")}
    assert {"service/openapi.yaml", *modules} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "deploy"))]
    assert "certlet = service.cli:main" in (target / "certlet-0.1.0.dist-info/entry_points.txt").read_text()
    monkeypatch.setattr(servers, "ROOT", target)
    assert servers.certlet("--version", cwd=tmp_path).stdout == b"certlet 0.1.0\n"
    with servers.certlet_server(tmp_path, "--ephemeral") as server:
        assert server.sign({"csr": csrs.encode_pem(csrs.build()).decode()}).status == 200
        assert server.request("GET", "/sign").status == 200
