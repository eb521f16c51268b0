"""Podman, and programs that stand for Docker and kubectl, which Debian 12 does not have in this form.

`docker build` is `podman build`, `docker compose` runs the services of `compose.yaml` in the working directory with
`podman run`, and `kubectl` plays manifests with `podman play kube`. Each key of `compose.yaml` is translated; an
unknown one is an error.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests import servers

BASE = "localhost/base:1"
PACKAGES = "python3,python3-venv,ca-certificates,base-files,coreutils,dash,libc-bin"
USER = 10001
STATE = "CONTAINER_TEST_STATE"
POD = "certlet-pod-0-certlet"  # the container of the Deployment
# The tmpfs mounts that Podman adds to --read-only are not in Docker.
RUN = ("run", "--read-only-tmpfs=false")


class Engine:
    """Podman with storage, containers and networks in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "containers.conf"

    def command(self, *arguments: str | Path) -> list[str]:
        paths = [f"--{name}={self.directory / name}" for name in ("root", "runroot", "tmpdir")]
        return ["podman", "--log-level=fatal", *paths, *map(str, arguments)]

    def environ(self) -> dict[str, str]:
        return servers.environ(CONTAINERS_CONF=str(self.config), **{STATE: str(self.directory)})

    def podman(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        return servers.run(*self.command(*arguments), env=self.environ(), check=check)

    def create(self) -> None:
        """Create the configuration, a base image of Debian's packages, and the wheels of the lock."""
        # Podman's own limits are higher, which root may not set in a sandbox without CAP_SYS_RESOURCE.
        containers = {"default_ulimits": ["nofile=4096:4096", "nproc=4096:4096"]}
        engine = {"runtime": "runc", "cgroup_manager": "cgroupfs", "events_logger": "file"}
        lines = [
            line
            for section, items in (("containers", containers), ("engine", engine))
            for line in (f"[{section}]", *(f"{name} = {json.dumps(value)}" for name, value in items.items()))
        ]
        self.config.write_text("\n".join(lines))
        archive = self.directory / "base.tar"
        suite = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if line)
        options = ("--quiet", "--variant=extract", f"--include={PACKAGES}")
        servers.run("mmdebstrap", *options, suite["VERSION_CODENAME"], archive)
        self.podman("import", "--quiet", archive, BASE)
        archive.unlink()
        version = self.podman("run", "--rm", "--network=none", BASE, "/usr/bin/python3", "--version").stdout
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes")
        target = ("--only-binary=:all:", "--python-version", version.split()[1].rpartition(".")[0])
        lock = servers.ROOT / "deploy/lock/service.txt"
        servers.run(*pip, *target, "--dest", self.directory / "wheels", "-r", lock)
        (self.directory / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")

    def clear(self) -> None:
        """Remove all containers."""
        self.podman("pod", "rm", "--all", "--force", "--time=0", check=False)
        self.podman("rm", "--all", "--force", "--time=0", check=False)
        self.podman("volume", "rm", "--all", "--force", check=False)

    def delete(self) -> None:
        """Remove all containers, and the directory."""
        self.clear()
        servers.run("umount", self.directory / "root/overlay", check=False)
        shutil.rmtree(self.directory)

    def create_programs(self, directory: Path) -> None:
        """Create `docker`, `kubectl` and `sudo`."""
        for name in ("docker", "kubectl"):
            servers.create_script(directory / name, f'exec {sys.executable} -m {__name__} {name} "$@"')
        servers.create_script(directory / "sudo", 'exec "$@"')
        servers.create_script(directory / "certlet")


def docker(engine: Engine, arguments: list[str]) -> list[str]:
    """Translate `docker build` and `docker compose`."""
    match arguments:
        case ["build", *options]:
            mounts = {"wheels": "/wheels", "pip.conf": "/etc/pip.conf"}
            volumes = [f"--volume={engine.directory / name}:{path}:ro" for name, path in mounts.items()]
            base = f"--build-arg=BASE={BASE}"
            return [
                "build",
                "--quiet",
                "--isolation=chroot",
                "--layers=false",
                "--format=docker",
                base,
                *volumes,
                *options,
            ]
        case ["compose", "run", "--rm", "-T", *rest]:
            entry_point = ["--entrypoint", rest[1]] if rest[0] == "--entrypoint" else []
            service, *command = rest[len(entry_point) :]
            options, image, _ = compose_service(service)
            return [*RUN, "--rm", "--interactive", *options, *entry_point, image, *command]
        case ["compose", "up", "-d"]:
            options, image, command = compose_service("certlet")
            return [*RUN, "--detach", "--name=certlet", *options, image, *command]
    raise AssertionError(arguments)


def compose_service(name: str) -> tuple[list[str], str, list[str]]:
    """Return the options of `podman run` for a service of compose.yaml, its image and its command."""
    compose = yaml.safe_load(Path("compose.yaml").read_text())
    service = compose["services"][name]
    options = [
        option
        for key, value in service.items()
        if key not in ("image", "build", "command", "profiles", "restart")
        for option in compose_options(key, value, compose)
    ]
    return options, service["image"], service.get("command", [])


def compose_options(key: str, value: Any, compose: dict[str, Any]) -> Iterator[str]:
    """Translate one key of a service."""
    match key, value:
        case "read_only", True:
            yield "--read-only"
        case (("cap_drop" | "security_opt" | "tmpfs" | "ports" | "volumes"), _):
            option = {"ports": "publish", "volumes": "volume"}.get(key, key.replace("_", "-"))
            yield from (f"--{option}={item}" for item in value)
        case "environment", _:
            yield from (f"--env={name}={text}" for name, text in value.items())
        case "secrets", _:
            files = {item: Path(compose["secrets"][item]["file"]).resolve() for item in value}
            yield from (f"--volume={path}:/run/secrets/{item}:ro" for item, path in files.items())
        case "healthcheck", _:
            yield from (f"--health-{item.replace('_', '-')}={text}" for item, text in value.items())
        case (("mem_limit" | "pids_limit" | "stop_grace_period" | "network_mode"), _):
            names = {"mem_limit": "memory", "stop_grace_period": "stop-timeout", "network_mode": "network"}
            yield f"--{names.get(key, 'pids-limit')}={str(value).removesuffix('s')}"
        case _:
            raise AssertionError((key, value))


def kubectl(engine: Engine, arguments: list[str]) -> list[str]:
    """Collect the files of Secrets, wait for the server, and translate `kubectl apply`.

    Podman 4.3 does not decode Secrets. Their volumes become directories as the kubelet creates them: links to files
    that the group of the pod can read.
    """
    match arguments:
        case ["create", "namespace", "certlet"]:
            return ["version"]
        case ["-n", "certlet", "create", "secret", "generic", name, source]:
            key, _, text = source.removeprefix("--from-file=").rpartition("=")
            data = engine.directory / "secrets" / name / "..data"
            data.mkdir(parents=True)
            for path in [Path(text)] if key else sorted(Path(text).iterdir()):
                file = data / (key or path.name)
                file.write_bytes(path.read_bytes())
                file.chmod(0o440)
                os.chown(file, -1, USER)
                (data.parent / file.name).symlink_to(f"..data/{file.name}")
            return ["version"]
        case ["-n", "certlet", "rollout", "status", "deployment/certlet"]:
            servers.wait_until(lambda: "Web pages" in engine.podman("logs", POD).stdout)
            return ["version"]
        case ["apply", "-f", name]:
            text = sys.stdin.read() if name == "-" else Path(name).read_text()
            documents = [item for item in yaml.safe_load_all(text) if not is_existing_claim(engine, item)]
            (pod,) = [item["spec"]["template"]["spec"] for item in documents if item["kind"] == "Deployment"]
            for volume in pod["volumes"]:
                if secret := volume.pop("secret", None):
                    path = engine.directory / "secrets" / secret["secretName"]
                    volume["hostPath"] = {"path": str(path), "type": "Directory"}
            manifest = engine.directory / "manifest.yaml"
            manifest.write_text(yaml.safe_dump_all(documents))
            return ["play", "kube", "--replace", str(manifest)]
    raise AssertionError(arguments)


def is_existing_claim(engine: Engine, item: dict[str, Any]) -> bool:
    """Return whether a document claims a volume that exists, which Podman 4.3 refuses."""
    claim = item["kind"] == "PersistentVolumeClaim"
    return claim and not engine.podman("volume", "exists", item["metadata"]["name"], check=False).returncode


def main() -> None:
    """Run as one of the programs."""
    engine = Engine(Path(os.environ[STATE]))
    translate = {"docker": docker, "kubectl": kubectl}[sys.argv[1]]
    command = engine.command(*translate(engine, sys.argv[2:]))
    os.execvp(command[0], command)  # noqa: S606 - Podman, with fixed arguments


if __name__ == "__main__":
    main()
