"""Install what a tox environment needs from Debian and npm; without root, print the apt-get command instead.

`python -m tests.install [--npm FOLDER] COMMAND[=PACKAGE]... =PACKAGE...`, where a command may also be the path of a file.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0; 1 if packages are missing and the user is not root.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--npm", type=Path, help="run npm ci in this folder")
    parser.add_argument(
        "commands",
        nargs="*",
        help="install this command, from PACKAGE if its Debian package has another name",
    )
    options = parser.parse_args(arguments)
    required = [item.split("=") if "=" in item else (item, item) for item in options.commands]
    missing = sorted({package for command, package in required if not _is_installed(command, package)})
    if missing and os.geteuid() != 0:
        sys.stderr.write(f"missing: apt-get install {' '.join(missing)}\n")
        return 1
    if missing:
        # Runlevel 1 keeps installed servers from starting as services (invoke-rc.d(8)).
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        subprocess.run(["apt-get", "update", "-qq"], check=True, env=environ)
        install = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "install", "-y", "-qq"]  # wait for another apt
        subprocess.run([*install, *missing], check=True, env=environ)
    if options.npm:
        subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], check=True, cwd=options.npm
        )
    return 0


def _is_installed(command: str, package: str) -> bool:
    """Whether a command, a file or (without a command) a package is installed.

    Debian installs servers in /usr/sbin, which may not be on the PATH.
    """
    if not command:
        return Path(f"/var/lib/dpkg/info/{package}.list").exists()
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
    return Path(command).exists() if "/" in command else bool(shutil.which(command, path=path))


if __name__ == "__main__":
    sys.exit(main())
