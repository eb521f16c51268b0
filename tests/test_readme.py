"""The README's commands, done as they stand there; and what is printed, as it stands beneath."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import servers
from tests.servers import API_KEY, ROOT, Server

README = (ROOT / "README.md").read_text()
Run = Callable[[str], subprocess.CompletedProcess[str]]
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def transcript() -> list[tuple[str, str]]:
    """Each command of the block that makes a certificate, and what is printed."""
    (block,) = re.findall("```console\n([^`]*certlet new[^`]*)```", README)
    parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def pattern(printed: str) -> str:
    """What is printed, with any text for `…` and any time for a time."""
    parts = [re.escape(TIME.sub("TIME", each)) for each in printed.split("…")]
    return ".*?".join(parts).replace("TIME", TIME.pattern)


@pytest.fixture
def run(server: Server, tmp_path: Path) -> Run:
    """Run a command as the README has it, in a directory with `.venv/bin/certlet`, and a `systemctl`."""
    servers.executable(tmp_path / ".venv/bin/certlet")
    servers.executable(tmp_path / "bin/systemctl", 'echo "$@" >> asked')
    environ = servers.environ(CERTLET_API_KEY=API_KEY, CERTLET_URL=server.url)
    environ["PATH"] = f"{tmp_path / 'bin'}:{environ['PATH']}"

    def run(command: str) -> subprocess.CompletedProcess[str]:
        return servers.run("sh", "-c", command, cwd=tmp_path, env=environ, check=False)

    return run


def test_the_transcript_is_what_happens(run: Run, tmp_path: Path) -> None:
    """Each command prints what is written beneath it, but for times and what `…` stands for."""
    found = transcript()
    assert [command.split()[1] for command, _ in found] == ["new", "show", "renew", "trust"]
    for command, printed in found:
        done = run(command)
        assert (done.returncode, done.stderr) == (0, ""), command
        assert re.fullmatch(pattern(printed), done.stdout, re.DOTALL), done.stdout
    assert (tmp_path / "asked").read_text() == "reload nginx\n"


def test_each_command_of_the_table_works(run: Run) -> None:
    """The commands of the rows, one after the other."""
    found = re.findall(r"^\| [^|]* \| `(\.venv/bin/certlet (?:new|renew) [^`]*)`", README, re.MULTILINE)
    assert [each.split()[1] for each in found] == ["new", "renew"]
    for command in found:
        done = run(command)
        assert (done.returncode, done.stderr) == (0, ""), command


# What stands for something of the reader's own, and what it is here.
OWN = {
    "DIR": "made",
    "OLD": "made",
    "NEW": "next",
    "NAME": "ops",
    "--profiles FILE": "--profiles own.yaml",
    "SERIAL\\|FILE": "7f01",
    "region …": "region eu-central-1",
    "account …": "account 123456789012",
    "function …": "function certlet",
}
# The commands of the tables, in an order in which they can follow one another, and what each prints.
FOLLOWING = {
    'curl -sS -H "x-api-key: $CERTLET_API_KEY" --data-binary @my.csr http://127.0.0.1:8080/sign.pem': "-----BEGIN",
    ".venv/bin/certlet sign my.csr --out my.crt": "",
    "curl -s http://127.0.0.1:8080/root.crt | openssl x509 -inform der": "-----BEGIN CERTIFICATE-----",
    "certlet init DIR --permit-dns example.com": "",
    "certlet rollover OLD NEW": "",
    "certlet api-key add NAME": "",
    "api-key list": "ops",
    "api-key remove NAME": "",
    ".venv/bin/certlet api-key add me": "",
    "certlet check --profiles FILE": "",
    "certlet revoke SERIAL\\|FILE": "",
    "certlet sign my.csr --dry-run": "my.example.com",
    "certlet sign *.csr": "",
    "certlet completion bash": "complete",
    "certlet openapi --region … --account … --function …": '"x-amazon-apigateway-integration"',
    "certlet openapi --format public": '"openapi"',
    "certlet --version": "certlet 0.",
}
SERVING = (
    "certlet serve",
    ".venv/bin/certlet serve --port 8081",
    "certlet serve --profiles FILE",
    "certlet serve --ephemeral",
    "certlet serve --workers 4",
    "certlet serve --tls",
    "certlet serve --tls --tls-name ca.example.com",
)
# Of these, what runs them. Nobody has an AWS account here.
ELSEWHERE = {
    "tox -e clients": "make ci",
    "make setup && .venv/bin/certlet init ca && mv ca/root-ca.key /somewhere/safe": "make test, and above",
    "export CERTLET_CA_PASSPHRASE=$(openssl rand -base64 24)": "tests/deploy",
    'aws ssm put-parameter --name /certlet/passphrase --type SecureString --value "$CERTLET_CA_PASSPHRASE"': "AWS",
    'make deploy ZIP="--ca ca" PARAMETERS="CaPassphraseParameter=/certlet/passphrase"': "AWS; tests/deploy",
}
# A command's name alone is a word of a sentence.
PROGRAMS = re.compile(
    r"(?!certlet (?!serve$)[a-z]+$)(\.venv/bin/)?(certlet|curl|aws|sam|tox) .+|api-key (add|list|remove).*|make [a-z-]+.*"
)


def inline() -> set[str]:
    """The commands within the text and the tables."""
    text = re.sub("```.*?```", "", README, flags=re.DOTALL)
    return {each for each in re.findall(r"`([^`\n]+)`", text) if PROGRAMS.fullmatch(each)}


def blocks() -> set[str]:
    """The commands at a prompt."""
    found = "".join(re.findall("```console\n(.*?)```", README, re.DOTALL))
    return set(re.findall(r"^\$ (.*)$", found, re.MULTILINE))


def test_every_command_is_run() -> None:
    """There is no command in the README that no test runs."""
    targets = {each for each in inline() | blocks() if re.fullmatch("make [a-z-]+", each)}
    makefile = (ROOT / "Makefile").read_text()
    assert {each for each in targets if f"\n{each.removeprefix('make ')}:" not in makefile} == set()
    rows = set(re.findall(r"`(\.venv/bin/certlet (?:new|renew) [^`]*)`", README))  # run above
    # Those of the section on clients by tests/clients, which reads them there.
    clients = README.split("\n### Clients\n")[1].split("\n### ")[0]
    made = {each for each in blocks() if f"$ {each}\n" in clients}
    done = {command for command, _ in transcript()} | rows | made | targets | set(ELSEWHERE)
    done |= set(FOLLOWING) | set(SERVING)
    assert (inline() | blocks()) - done == {".venv/bin/certlet sign bad.csr"}  # which is below
    assert {*FOLLOWING, *SERVING, *ELSEWHERE} <= inline() | blocks()


def test_the_commands_of_the_tables(run: Run, server: Server, tmp_path: Path) -> None:
    """One after the other, with names of our own where the README has a placeholder."""
    (tmp_path / "own.yaml").write_text("default: peer\n")
    asked = "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout my.key -subj /CN=my.example.com -out my.csr"
    assert run(asked).returncode == 0
    for command, printed in FOLLOWING.items():
        ready = command.replace("http://127.0.0.1:8080", server.url)
        for stated, own in OWN.items():
            ready = ready.replace(stated, own)
        ready = re.sub("^api-key", "certlet api-key", ready).removeprefix(".venv/bin/")
        ready = re.sub("^certlet", ".venv/bin/certlet", ready)
        ready += " --ca made" * any(word in ready for word in ("certlet revoke", "certlet api-key"))
        done = run(ready)
        assert done.returncode == 0, (ready, done.stderr)
        assert printed in done.stdout, ready
    assert "-----BEGIN CERTIFICATE-----" in (tmp_path / "my.crt").read_text()


@pytest.mark.parametrize("command", SERVING)
def test_each_way_to_serve(command: str, tmp_path: Path) -> None:
    """Each form of `certlet serve` begins to serve, with HTTPS where that is asked for."""
    (tmp_path / "own.yaml").write_text("default: peer\n")
    options = shlex.split(command.replace("FILE", "own.yaml").replace("8081", "0"))[2:]
    with servers.serving(tmp_path, *options) as server:
        assert server.url.startswith("https:" if "--tls" in options else "http:")


def test_the_first_steps(tmp_path: Path) -> None:
    """`make run` prints what stands beneath it; its two commands, pasted, print a certificate with its chain."""
    (printed,) = re.findall(r"```console\n\$ make run\n(.*?)```", README, re.DOTALL)
    assert "\nrun: setup\n\t.venv/bin/certlet serve\n" in (ROOT / "Makefile").read_text()
    with servers.serving(tmp_path, env={}) as server:
        said = "\n".join(server.said) + "\n"
    stated = printed.replace("/home/you/certlet", str(tmp_path)).replace("http://127.0.0.1:8080", server.url)
    stated = stated.replace("0yRrn1nZ", "")  # a key of its own each time
    assert re.fullmatch(pattern(stated), said, re.DOTALL), said


def test_the_pasted_commands(tmp_path: Path) -> None:
    """The openssl and the curl line that the server prints make a key, a request and a certificate."""
    with servers.serving(tmp_path, env={}) as server:
        lines = "\n".join(server.said).partition("Sign one")[2]
        done = servers.run("sh", "-ec", lines, cwd=tmp_path)
    assert done.stdout.count("-----BEGIN CERTIFICATE-----") == 2


def test_a_refusal_reads_as_it_stands(run: Run) -> None:
    """`certlet sign bad.csr` prints what stands beneath it."""
    (block,) = re.findall(r"```console\n\$ (\.venv/bin/certlet sign bad.csr)\n(.*?)```", README, re.DOTALL)
    asked = "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout bad.key -subj /CN=localhost -out bad.csr"
    assert run(asked).returncode == 0
    done = run(block[0])
    assert done.returncode != 0
    assert re.fullmatch(pattern(block[1]), done.stderr, re.DOTALL), done.stderr
