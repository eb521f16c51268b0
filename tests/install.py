"""Sees to what a tox environment needs from Debian and npm: by apt when root, else in one line.

`python -m tests.install [--npm FOLDER] COMMAND[=PACKAGE]... =PACKAGE...`, where a command may be the path of any file.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Install what is missing.

    Returns:
        0; 1 if something is missing and this is not root.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--npm", type=Path, help="the folder of a package.json")
    parser.add_argument(
        "commands", nargs="*", help="a command, and its Debian package if that has another name, or =PACKAGE"
    )
    options = parser.parse_args(arguments)
    wanted = [each.split("=") if "=" in each else (each, each) for each in options.commands]
    missing = sorted({package for command, package in wanted if not _is_there(command, package)})
    if missing and os.geteuid() != 0:
        sys.stderr.write(f"missing: apt-get install {' '.join(missing)}\n")
        return 1
    if missing:
        # Runlevel 1: what is installed to be run by a test does not start as a service (invoke-rc.d(8)).
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        subprocess.run(["apt-get", "update", "-qq"], check=True, env=environ)
        install = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "install", "-y", "-qq"]  # another may be at it
        subprocess.run([*install, *missing], check=True, env=environ)
    if options.npm:
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], check=True, cwd=options.npm)
    return 0


def _is_there(command: str, package: str) -> bool:
    """Whether a command or a file is there, or a package that is asked for by its own name alone.

    Debian has servers in a place where not everybody looks.
    """
    if not command:
        return Path(f"/var/lib/dpkg/info/{package}.list").exists()
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
    return Path(command).exists() if "/" in command else bool(shutil.which(command, path=path))


if __name__ == "__main__":
    sys.exit(main())
