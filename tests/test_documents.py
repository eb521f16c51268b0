"""The README and the pages of docs/: their commands work with the documented output, and what they mention exists.

Each page runs in one shell. `NOT_RUN` lists the commands that this module does not run, with the reason.
"""

from __future__ import annotations

import json
import operator
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from deploy import reference
from service import audit
from service.cli import terminal
from tests import servers
from tests.cli import certlet
from tests.servers import ROOT, Server

README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
DOCUMENTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (README, *PAGES)}
OTHERS = {name: (ROOT / name).read_text() for name in ("CONTRIBUTING.md", "SECURITY.md")}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
MARK = "<!-- not run: AWS -->\n"
# Pages whose commands another module runs.
ELSEWHERE = {
    **{
        f"docs/how-to/{name}.md": "tests/test_operation_pages.py"
        for name in ("backup", "upgrade", "two-servers")
    },
    "docs/how-to/monitoring.md": "tests/interop/test_prometheus.py",
    "docs/how-to/ci-certificates.md": "tests/test_ci_certificates.py",
    "docs/how-to/container.md": "tests/container/test_image.py",
    "docs/how-to/java.md": "tests/interop/test_java_page.py",
    "docs/how-to/move-to-aws.md": "tests/deploy/test_move_to_aws.py",
    "docs/how-to/postgresql.md": "tests/est/test_recipes.py",
    **{
        f"docs/{name}.md": "tests/cli/test_tasks.py"
        for name in (
            *(
                f"how-to/{page}"
                for page in ("api-keys", "inventory", "nginx", "revoke", "rollover", "troubleshoot")
            ),
            "reference/cli",
        )
    },
}
# Prefixes of commands that are not run with their page, and what checks them.
NOT_RUN = {
    "make": "the Makefile's targets, below; make ci",
    "sudo": "needs a separate host; tests/est/test_proxies.py starts the unit's command",
    "curl -sS --cacert root-ca.crt --cert app.crt": "tests/est/test_recipes.py",
    "certlet serve": "test_server_starts_as_documented",
    "openapi-generator-cli": "tests/clients",
    "openapi-python-client": "tests/clients",
    "npx": "tests/clients",
    "pipx": "tests/test_distribution.py installs the wheel",
}
# Commands that need an AWS account: no test runs them. The pages mark them.
AWS = {
    "certlet list --log-group LOG-GROUP --expires-in 30d",
    "export CERTLET_CA_PASSPHRASE=$(openssl rand -base64 24)",
    "make setup && .venv/bin/certlet init ca && mv ca/root-ca.key /somewhere/safe",
    'aws ssm put-parameter --name /certlet/passphrase --type SecureString \\\n    --value "$CERTLET_CA_PASSPHRASE"',
    'make deploy ZIP="--ca ca" PARAMETERS="CaPassphraseParameter=/certlet/passphrase"',
    "export CERTLET_API_KEY=$(aws apigateway get-api-key --include-value --query value --output text --api-key ID)",
    ".venv/bin/certlet sign my.csr --url URL",
    'deploy/smoke.sh URL "$CERTLET_API_KEY" certlet',
    'aws ssm put-parameter --name /certlet/passphrase --type SecureString --key-id alias/certlet \\\n    --value "$CERTLET_CA_PASSPHRASE"',
    'make deploy ZIP="--ca ca" \\\n    PARAMETERS="CaPassphraseParameter=/certlet/passphrase CaDecryptKeyArn=ARN"',
    'make deploy ZIP="--ca ca" PROFILES=own.yaml OPENAPI="--oidc" \\\n    PARAMETERS="CaPassphraseParameter=/certlet/passphrase"',
    'curl --aws-sigv4 aws:amz:eu-central-1:execute-api --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" \\\n    -H "x-amz-security-token: $AWS_SESSION_TOKEN" --data-binary @my.csr "$URL/sign.pem"',
    "aws dynamodb update-table --table-name TABLE \\\n    --warm-throughput ReadUnitsPerSecond=12000,WriteUnitsPerSecond=8000",
}
# The part of jq that the pages use, for machines without it.
JQ = """import json, sys
facts = json.load(sys.stdin)
for name in sys.argv[2].split(", "):
    print(facts[name[1:]])
"""
REQUEST = "openssl req -new -nodes -newkey {type} -keyout {name}.key -subj /CN={host} -out {name}.csr"
EC = "ec -pkeyopt ec_paramgen_curve:P-256"


def transcript(text: str) -> list[tuple[str, str]]:
    """Return the commands of a page, each with its output."""
    blocks = re.findall(r"^```console\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    parts = re.split(r"^\$ ((?:.*\\\n)*.*)\n", "".join(blocks), flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def pattern(output: str) -> str:
    """Return a regular expression for output: `…` matches any text, and a time matches any time."""
    parts = [re.escape(TIME.sub("TIME", part)) for part in output.split("…")]
    return ".*?".join(parts).replace("TIME", TIME.pattern)


def inline_code(text: str) -> list[str]:
    """Return the inline code of a page."""
    text = re.sub("```.*?```", "", text, flags=re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


def is_run(command: str) -> bool:
    return not command.removeprefix(".venv/bin/").startswith(tuple(NOT_RUN))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`certlet serve` as in the README; its directory has the files that the pages use."""
    directory = tmp_path_factory.mktemp("documents")
    requests = {
        "my": (EC, "my.example.com"),
        "old": (EC, "a.example.com"),
        "stolen": ("rsa:2048", "a.example.com"),
    }
    for name, (key_type, host) in {**requests, "bad": (EC, "localhost")}.items():
        servers.run(*shlex.split(REQUEST.format(name=name, type=key_type, host=host)), cwd=directory)
    for name, language, page in (
        ("own.yaml", "yaml", "how-to/profiles.md"),
        ("site.py", "python", "tutorial.md"),
    ):
        (text,) = re.findall(rf"```{language}\n(.*?)```", DOCUMENTS[f"docs/{page}"], re.DOTALL)
        (directory / name).write_text(text)
    dns = {"wildcards": True, "single_label": True}
    operator = {"role": "operator", "dns": dns, "ip": {}, "email": {}, "uri": {}}
    (directory / "operator.yaml").write_text(json.dumps({"principals": {"default": operator}}))
    options = ("--audit-log", "audit.log", "--ledger", "ledger.db", "--profiles", "operator.yaml")
    with servers.certlet_server(directory, "--ca", "ca", *options, env={}) as server:  # prints "New CA"
        environ = {"CERTLET_URL": server.url, "CERTLET_API_KEY": api_key(server)}
        certlet("sign", "old.csr", "--out", "old.crt", cwd=directory, env=environ).check_returncode()
        yield server


def api_key(server: Server) -> str:
    """Return the API key that the server printed."""
    return next(line.split()[2] for line in server.output if line.startswith("API key"))


def run_all(
    commands: list[str], server: Server, cwd: Path, later: Mapping[str, str] | None = None, **environ: str
) -> list[tuple[str, int]]:
    """Run commands in one shell, in a directory with the CA and the files that they name.

    Args:
        commands: the commands.
        server: the server.
        cwd: the directory; files that exist are used.
        later: the beginning of a command -> what happens after it, without output.
        environ: environment variables that differ; an empty one is not set.

    Returns:
        the output and the exit status of each command.
    """
    servers.create_script(cwd / ".venv/bin/certlet")
    servers.create_script(cwd / ".venv/bin/systemctl", 'echo "$@" >> systemctl.log')
    servers.create_script(cwd / ".venv/bin/journalctl", f"cat {shlex.quote(str(server.log))}")
    if not shutil.which("jq"):
        servers.create_script(cwd / ".venv/bin/jq", f'exec {shlex.join([sys.executable, "-c", JQ])} "$@"')
    if not (cwd / "ca").exists():
        (cwd / "ca").symlink_to(server.log.parent / "ca")
    port = str(servers.free_port())
    for file in server.log.parent.iterdir():
        is_named = any(file.name in command for command in commands)
        if is_named and file.is_file() and not (cwd / file.name).exists():
            (cwd / file.name).write_text(file.read_text().replace("8443", port))
    lines = ["exec 2>&1", "trap 'kill $(jobs -p) 2>/dev/null' EXIT"]
    for command in commands:
        if "api-key add" in command:  # it would add the key in the environment, which is already registered
            lines.append("unset CERTLET_API_KEY")
        lines += [command, "sleep 1" if command.endswith("&") else "", 'printf "\\001%s\\001" "$?"']
        lines += [step for start, step in (later or {}).items() if command.startswith(start)]
    script = "\n".join(lines).replace("http://127.0.0.1:8080", server.url).replace("8443", port)
    variables = servers.environ(**{"CERTLET_API_KEY": api_key(server), "CERTLET_URL": server.url, **environ})
    variables["PATH"] = f"{cwd / '.venv/bin'}:{Path(sys.executable).parent}:{variables['PATH']}"
    variables = {name: value for name, value in variables.items() if value}
    result = servers.run("bash", "-c", script, cwd=cwd, env=variables, check=False)
    parts = result.stdout.split("\001")
    return list(zip(parts[0::2], map(int, parts[1::2]), strict=False))


def run_text(
    text: str, server: Server, cwd: Path, later: Mapping[str, str] | None = None, **environ: str
) -> list[str]:
    """Run the commands of a text by `run_all`; each has the documented output, and fails if that is an error.

    Returns:
        the output of each command.
    """
    text = re.sub(f"{MARK}```.*?```", "", text, flags=re.DOTALL).replace("http://127.0.0.1:8080", server.url)
    steps = [(command, output) for command, output in transcript(text) if is_run(command)]
    results = run_all([command for command, _ in steps], server, cwd, later, **environ)
    assert len(results) == len(steps)
    for (command, expected), (output, status) in zip(steps, results, strict=True):
        is_error = re.search("^(certlet: |[Ee]rror )", expected, re.MULTILINE)
        assert bool(status) == bool(is_error), (command, output)
        assert not expected.strip() or re.fullmatch(pattern(expected), output, re.DOTALL), (command, output)
    return [output for output, _ in results]


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, text in DOCUMENTS.items()
        if name not in ELSEWHERE and transcript(text.replace(MARK, ""))
    ],
)
def test_commands_of_a_page_work(name: str, server: Server, tmp_path: Path) -> None:
    """Each command of the page has the documented output."""
    run_text(DOCUMENTS[name], server, tmp_path)


@pytest.mark.parametrize("name", ["README.md", "docs/tutorial.md"])
def test_first_start_prints_the_documented_output(name: str, server: Server) -> None:
    """`make run` prints a form, an API key and two commands."""
    (output,) = re.findall(r"```console\n\$ make run\n(.*?)```", DOCUMENTS[name], re.DOTALL)
    assert "\nrun: setup\n\t.venv/bin/certlet serve --create\n" in (ROOT / "Makefile").read_text()
    output = output.replace("/home/you/certlet", str(server.log.parent)).replace("0yRrn1nZ", "")
    output = output.replace("http://127.0.0.1:8080", server.url)
    assert re.fullmatch(pattern(output), "\n".join(server.output) + "\n", re.DOTALL), server.output


def test_commands_printed_by_the_server_create_a_certificate(server: Server, tmp_path: Path) -> None:
    """The last two commands, pasted into a shell, create a key, a CSR and a certificate with its chain."""
    commands = "\n".join(server.output[-3:]).partition("  ")[2]
    result = servers.run("sh", "-ec", commands, cwd=tmp_path)
    assert result.stdout.count("-----BEGIN CERTIFICATE-----") == 2


def test_commands_in_the_text_of_the_readme_work(server: Server, tmp_path: Path) -> None:
    """The commands in the README's tables succeed in this order."""
    commands = [code for code in inline_code(DOCUMENTS["README.md"]) if re.match(r"certlet \S+ |curl ", code)]
    commands = [command for command in commands if is_run(command)]
    assert len(commands) == 12
    results = run_all(commands, server, tmp_path)
    assert [status for _, status in results] == [0] * len(commands), list(
        zip(commands, results, strict=False)
    )


SERVE_ON_ANY_PORT = (*servers.CERTLET, "serve", "--port", "0")
SERVE = sorted(
    {
        code.removeprefix(".venv/bin/")
        for text in DOCUMENTS.values()
        for code in (*inline_code(text), *(command for command, _ in transcript(text)))
        if re.match(r"(\.venv/bin/)?certlet serve (--create )?--(port|tls|workers)", code)
        and "FILE" not in code
    }
)


@pytest.mark.parametrize(
    "command", [command for command in SERVE if not any(longer.startswith(f"{command} ") for longer in SERVE)]
)
def test_server_starts_as_documented(command: str, server: Server, tmp_path: Path) -> None:
    """With the CA of another server, unless the command creates one."""
    if "--create" not in command:
        shutil.copytree(server.log.parent / "ca", tmp_path / "ca")
    options = shlex.split(command.replace("8081", "0").replace("0.0.0.0", "127.0.0.1"))[2:]  # noqa: S104 - replaced
    with servers.certlet_server(tmp_path, *options, command=SERVE_ON_ANY_PORT) as started:
        assert started.url.startswith("https:" if "--tls" in options else "http:")


def test_commands_for_aws_are_marked() -> None:
    """A block that needs AWS has a mark; its commands are those of `AWS`."""
    commands = [
        command
        for text in DOCUMENTS.values()
        for block in re.findall(f"{MARK}(```.*?```)", text, re.DOTALL)
        for command, _ in transcript(block)
    ]
    assert set(commands) == AWS
    unmarked = "".join(re.sub(f"{MARK}```.*?```", "", text, flags=re.DOTALL) for text in DOCUMENTS.values())
    assert not [command for command, _ in transcript(unmarked) if re.match("aws|sam", command)]


def test_documented_targets_and_environments_exist() -> None:
    """Each `make TARGET` and `tox -e ENVIRONMENT` exists."""
    text = "\n".join((*DOCUMENTS.values(), *OTHERS.values()))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    environments = set(re.findall(r"^\[testenv:([a-z]+)\]", (ROOT / "tox.ini").read_text(), re.MULTILINE))
    assert set(re.findall(r"[`$] ?make ([a-z-]+)", text)) <= targets
    assert set(re.findall(r"`tox -e ([a-z]+)", text)) <= environments


def test_documented_options_exist() -> None:
    """Each `certlet` command in a document exists and has the documented options."""
    options = {
        name.removeprefix("certlet "): {flag for option in context.command.params for flag in option.opts}
        for name, context in reference.commands()
    }
    for text in (*DOCUMENTS.values(), *OTHERS.values()):
        for code in (*inline_code(text), *(command for command, _ in transcript(text))):
            if not (
                match := re.match(r"(?:\.venv/bin/)?certlet ((?:(?:api-key|acme) )?[a-z][a-z-]+)(.*)", code)
            ):
                continue
            assert match[1] in options, code
            assert (
                set(re.findall(r"(?<!\S)(--[a-z0-9-]+)", match[2].partition("'")[0])) <= options[match[1]]
            ), code


def test_documented_files_and_tests_exist() -> None:
    """Each file and each test that a document mentions exists."""
    tests = set()
    for path in (ROOT / "tests").rglob("*.py"):
        tests |= set(re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)) | {path.name}
    for name, text in {**DOCUMENTS, **OTHERS}.items():
        for code in inline_code(text):
            if re.fullmatch(r"(service|deploy|bench|tests)/[\w./-]+", code):
                assert (ROOT / code).exists(), (name, code)
            elif re.fullmatch(r"(pki|web|gateway|cli|keystore)/\w+\.py", code):
                assert (ROOT / "service" / code).exists(), (name, code)
            elif re.fullmatch(r"test_\w+(\.py)?", code):
                assert code in tests, (name, code)


def test_links_in_the_repository_point_to_files() -> None:
    """Relative links of the documents in the root point to files (`tox -e docs` checks the links in docs/)."""
    for name, text in {"README.md": DOCUMENTS["README.md"], **OTHERS}.items():
        for link in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text):
            assert "://" in link or (ROOT / link).exists(), (name, link)


def test_every_page_marker_is_generated() -> None:
    """Each generated part is on exactly one page, and each marker names a part that is not empty."""
    markers = [name for text in DOCUMENTS.values() for name in reference.MARKER.findall(text)]
    assert sorted(markers) == sorted(reference.PARTS)
    assert {type(context.command) for _, context in reference.commands()} <= {
        terminal.Command,
        terminal.Group,
    }
    for name in markers:
        assert reference.PARTS[name]().strip(), name


def test_settings_and_fields_are_documented() -> None:
    """Each environment variable and each field of the audit log is in the reference."""
    sources = "".join(path.read_text() for path in (ROOT / "service").rglob("*.py"))
    variables = set(re.findall(r"\"(CERTLET_[A-Z0-9_]+)\"", sources))
    assert variables == set(re.findall(r"`(CERTLET_[A-Z0-9_]+)`", DOCUMENTS["docs/reference/settings.md"]))
    fields = set(re.findall(r"^\| (`.+?`) \|", DOCUMENTS["docs/reference/audit-log.md"], re.MULTILINE))
    field_names = {name for cell in fields for name in re.findall("`([a-z0-9_]+)`", cell)}
    assert set(audit.AuditRecord._fields) | {"intent", "result", "refusal", "revocation"} == field_names


def test_urls_of_other_hosts_are_reported(tmp_path: Path) -> None:
    """The check reports resources that a page or style sheet loads from other hosts; it ignores links."""
    (tmp_path / "a.html").write_text(
        '<a href="https://a.example/"></a><link href="//b.example/b.css"><script src="c.js"></script>'
        '<img src="https://d.example/d.png">'
    )
    (tmp_path / "e.css").write_text("@import url('https://e.example/e.css'); a {background: url(f.png)}")
    hosts = [url.partition("//")[2].partition("/")[0] for url in reference.external_urls(tmp_path)]
    assert hosts == ["b.example", "d.example", "e.example"]


def test_totals_on_the_page_about_scale_are_right() -> None:
    """The loads and the costs of a million certificates a day follow from the page's own units and prices."""
    text = DOCUMENTS["docs/explanation/scale.md"].replace(",", "")

    def rows(header: str) -> list[list[str]]:
        lines = text.partition(f"| {header} |")[2].partition("\n\n")[0].splitlines()[2:]
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]

    per_second = 1e6 / 86_400
    for name, uses, mean, peak, _ in rows("Load"):
        expected = round(int(uses) * per_second), round(24 * int(uses) * per_second)
        assert (int(mean), int(peak)) == expected, name
    units = [[*map(float, cells)] for name, *cells in rows("Unit") if not name.startswith("**")]
    totals = [cells for cells in rows("Unit") if cells[0].startswith("**")]
    columns = list(zip(*units, strict=True))
    costs = [sum(map(operator.mul, columns[0], column)) for column in columns[1:]]
    for name, price, *dollars in totals:
        assert dollars == [f"**{cost + float(price or 0):.2f}**" for cost in costs], name
    assert (len(rows("Load")), len(units), len(totals)) == (4, 8, 3)


def test_readme_is_short() -> None:
    text = DOCUMENTS["README.md"]
    assert len(text.split()) <= 1200
    assert max(map(len, text.splitlines())) <= 120
