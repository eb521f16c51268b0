"""Pages of the documentation, followed by tests: their commands run as written, with the documented output."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from tests import servers
from tests.servers import ROOT
from tests.test_documents import pattern, transcript


def read(name: str) -> str:
    """Return a page of docs/how-to."""
    return (ROOT / "docs/how-to" / f"{name}.md").read_text()


def section(page: str, heading: str) -> str:
    """Return the section of a page, up to the next heading of its level."""
    _, found, rest = page.partition(f"\n## {heading}\n")
    assert found, heading
    return rest.partition("\n## ")[0]


def block(text: str, language: str, number: int = 0) -> str:
    """Return a code block of a language."""
    return str(re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)[number])


def commands(text: str, prefix: str = "") -> list[str]:
    """Return the commands of a text that begin with a prefix."""
    return [command for command, _ in transcript(text) if command.startswith(prefix)]


def follow(
    text: str,
    cwd: Path,
    environ: Mapping[str, str],
    replace: Mapping[str, str] | None = None,
    *,
    without: str = "\0",
) -> list[str]:
    """Run the commands of a text in one shell, and verify their status and output.

    Args:
        text: a section of a page.
        cwd: the directory.
        environ: the environment.
        replace: what is not on this machine, such as /somewhere/safe, and what stands for it.
        without: commands that begin with this are left out.

    Returns:
        the output of each command.
    """
    steps = [step for step in transcript(text) if not step[0].startswith(without)]
    assert steps
    lines = [f"{command}\nprintf '\\001'" for command, _ in steps]
    script = "\n".join(["exec 2>&1", *lines])
    for old, new in (replace or {}).items():
        script = script.replace(old, new)
    result = servers.run("bash", "-ec", script, cwd=cwd, env=environ, check=False)
    *outputs, last = result.stdout.split("\001")
    for (command, expected), output in zip(steps, outputs, strict=False):
        assert not expected or re.fullmatch(pattern(expected), output, re.DOTALL), (command, output)
    assert result.returncode == 0, last
    assert len(outputs) == len(steps), script
    return outputs


def with_certlet(directory: Path, **change: str) -> dict[str, str]:
    """Return an environment whose PATH has `certlet`."""
    servers.create_script(directory / "certlet")
    environ = servers.environ(**change)
    return environ | {"PATH": f"{directory}:{environ['PATH']}"}
