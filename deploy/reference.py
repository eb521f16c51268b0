"""The parts of the documentation that come from the code: a hook of MkDocs inserts them at build time.

A page marks such a part with a line `<!-- generated: NAME -->`; `PARTS` has the names. After the build, the
hook checks that no page loads anything from another host.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any, Final

import click

from service import openapi
from service.cli import certlet
from service.gateway.metrics import DEFINITIONS
from service.openapi import resolve_ref

ROOT: Final = Path(__file__).parent.parent
MARKER: Final = re.compile(r"^<!-- generated: ([a-z-]+) -->$", re.MULTILINE)

JSON = dict[str, Any]


def cell(text: str) -> str:
    """Text for a table cell: one line, with special characters escaped outside code."""
    parts = " ".join(text.split()).split("`")
    for index in range(0, len(parts), 2):
        parts[index] = re.sub(r"[|<*]", lambda match: f"&#{ord(match[0])};", parts[index])
    return "`".join(parts)


def table(*rows: tuple[str, ...]) -> str:
    """A table, whose first row is its head."""
    head, *body = rows
    lines = [head, ("---",) * len(head), *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines) + "\n"


def commands() -> Iterator[tuple[str, click.Context]]:
    """Each command by its name, in the order of `certlet --help`; the subcommands of a group after it."""

    def walk(
        name: str, command: click.Command, parent: click.Context | None
    ) -> Iterator[tuple[str, click.Context]]:
        context = command.make_context(name.rpartition(" ")[2], [], parent=parent, resilient_parsing=True)
        yield name, context
        if isinstance(context.command, click.Group):
            for child in context.command.list_commands(context):
                subcommand = context.command.get_command(context, child)
                assert subcommand is not None  # noqa: S101 - it was listed  # nosec B101
                yield from walk(f"{name} {child}", subcommand, context)

    return walk("certlet", certlet, None)


def cli() -> str:
    """Every command: its help, its options and its example."""
    text = []
    for name, context in commands():
        command = context.command
        usage = " ".join((context.command_path, *command.collect_usage_pieces(context)))
        paragraphs = [" ".join(part.split()) for part in (command.help or "").split("\n\n")]
        options = [
            record
            for option in command.get_params(context)
            if (record := option.get_help_record(context)) and record[1] and "--help" not in record[0]
        ]
        text += [f"## {name}", *map(cell, paragraphs), f"```text\n{usage}\n```"]
        if options:
            text.append(
                table(("Option", "Meaning"), *((f"`{names}`", cell(text)) for names, text in options))
            )
        if command.epilog:
            kind, _, example = command.epilog.partition(": ")
            is_example = kind.startswith("Example")
            text.append(
                "```sh\n" + example.replace("; ", "\n") + "\n```" if is_example else cell(command.epilog)
            )
    return "\n\n".join(text)


def problem_codes() -> str:
    """Every problem code: its statuses, what it means and what to do."""
    types = openapi.load()["x-problem-types"]
    text = []
    for code, problem in types.items():
        statuses = ", ".join(map(str, problem["statuses"]))
        text += [
            f"## {code}",
            f"Status {statuses}. {cell(problem['meaning'])}",
            f"**What to do**: {cell(problem['remedy'])}",
        ]
    return "\n\n".join(text)


def kind(schema: JSON, reference: Callable[[str], str]) -> str:
    """The type of a JSON schema in a few words."""
    if "$ref" in schema:
        return reference(schema["$ref"].rpartition("/")[2])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    for composed in ("oneOf", "anyOf", "allOf"):
        if composed in schema:
            return " or ".join(kind(part, reference) for part in schema[composed])
    if schema.get("type") == "array":
        return f"array of {kind(schema.get('items', {}), reference)}"
    return cell(str(schema.get("format", schema.get("type", "any"))))


def properties(schema: JSON) -> Iterator[tuple[str, ...]]:
    """The rows of a table of an object's properties."""
    for name, value in schema.get("properties", {}).items():
        required = "yes" if name in schema.get("required", ()) else ""
        yield f"`{name}`", kind(value, link), required, cell(value.get("description", ""))


def link(schema: str) -> str:
    """A link to a schema on the page of the HTTP API."""
    return f"[{schema}](#{schema.lower()})"


def operations(document: JSON) -> Iterator[str]:
    """Every operation of the contract: credentials, parameters, body and responses."""
    for path, item in document["paths"].items():
        for method in ("get", "post"):
            if method not in item:
                continue
            operation = item[method]
            yield f"### {method.upper()} {path}"
            yield f"{cell(operation.get('summary', ''))}. {cell(operation.get('description', ''))}"
            if callers := " or ".join(name for scheme in operation.get("security", []) for name in scheme):
                yield f"Credentials: {callers}."
            if parameters := [resolve_ref(part, document) for part in operation.get("parameters", [])]:
                rows = (
                    (
                        f"`{part['name']}`",
                        part["in"],
                        kind(part["schema"], link),
                        cell(part.get("description", "")),
                    )
                    for part in parameters
                )
                yield table(("Parameter", "In", "Type", "Meaning"), *rows)
            if "requestBody" in operation:
                body = resolve_ref(operation["requestBody"], document)["content"]
                yield table(("Request body", "Schema"), *media_types(body))
            responses = (
                (status, resolve_ref(part, document)) for status, part in operation["responses"].items()
            )
            yield table(
                ("Status", "Meaning", "Content"),
                *(
                    (
                        status,
                        cell(part["description"]),
                        "<br>".join(map(": ".join, media_types(part.get("content", {})))),
                    )
                    for status, part in responses
                ),
            )


def media_types(content: JSON) -> Iterator[tuple[str, str]]:
    """Each media type of a body, with its schema."""
    for name, media in content.items():
        yield f"`{name}`", kind(media["schema"], link)


def http_api() -> str:
    """Every operation and every schema of the contract."""
    document = openapi.public(openapi.load())
    text = ["## Operations", *operations(document), "## Schemas"]
    for name, schema in document["components"]["schemas"].items():
        text += [f"### {name}", cell(schema.get("description", ""))]
        if rows := tuple(properties(schema)):
            text.append(table(("Property", "Type", "Required", "Meaning"), *rows))
        else:
            text.append(f"Type: {kind(schema, link)}.")
    return "\n\n".join(text)


def profile_keys() -> str:
    """The keys of a profile, and the kinds of names."""
    form, schema = schema_form()
    names = "; ".join(
        f"`{name}`: {form(value)}" for name, value in schema["$defs"]["names"]["properties"].items()
    )
    return f"{schema_keys('profile')}\nThe kinds of names: {names}.\n"


def schema_keys(definition: str) -> str:
    """The keys of a definition of `profiles.schema.json`."""
    form, schema = schema_form()
    keys = schema["$defs"][definition]
    rows = (
        (
            f"`{name}`",
            cell(form(value)),
            "yes" if name in keys["required"] else "",
            cell(value.get("description", "")),
        )
        for name, value in keys["properties"].items()
    )
    return table(("Key", "Value", "Required", "Meaning"), *rows)


def schema_form() -> tuple[Callable[[JSON], str], JSON]:
    """A function that describes a subschema of `profiles.schema.json`, and the schema."""
    schema = json.loads(resources.files("service").joinpath("profiles.schema.json").read_text())
    definitions = schema["$defs"]

    def form(value: JSON) -> str:
        name = value.get("$ref", "").rpartition("/")[2]
        text = value.get("title") or definitions.get(name, {}).get("title", "")
        if items := value.get("items"):
            text = f"a list; each item is {form(items)}"
        return str(text or kind(value, str))

    return form, schema


def usage_plan() -> str:
    """The usage plan of the contract."""
    plan = openapi.load()["x-usage-plan"]
    return table(
        ("Requests per second", "At once", "Quota"),
        (str(plan["rate"]), str(plan["burst"]), f"{plan['quota']:,} per {plan['period'].lower()}"),
    )


def profiles() -> str:
    """The profiles of the contract."""
    document = openapi.load()
    default = document["components"]["schemas"]["ProfileName"]["default"]
    rows = (
        (
            f"`{name}`{' (default)' if name == default else ''}",
            cell(profile["description"]),
            profile["validity"],
            ", ".join(profile["names"]),
            ", ".join(profile["extended_key_usage"]),
        )
        for name, profile in openapi.policy_data(document)["profiles"].items()
    )
    return table(("Profile", "For", "Valid", "Names", "Extended key usage"), *rows)


def included(path: str, level: str = "") -> Callable[[], str]:
    """A function that returns a document without its title, with its headings lowered by `level`."""
    return lambda: re.sub(
        "^##", f"##{level}", (ROOT / path).read_text().partition("\n")[2], flags=re.MULTILINE
    )


def metrics() -> str:
    """The metrics of `certlet serve --metrics`."""
    rows = (
        (f"`{name}`", metric.kind, ", ".join(f"`{label}`" for label in metric.labels), cell(metric.meaning))
        for name, metric in DEFINITIONS.items()
    )
    return table(("Metric", "Type", "Labels", "Meaning"), *rows)


PARTS: Final[dict[str, Callable[[], str]]] = {
    "cli": cli,
    "http-api": http_api,
    "problem-codes": problem_codes,
    "profile-keys": profile_keys,
    "identity-keys": lambda: schema_keys("identity"),
    "metrics": metrics,
    "profiles": profiles,
    "usage-plan": usage_plan,
    "changelog": included("CHANGELOG.md"),
    "figures": included("bench/figures.md", "#"),
}


def on_page_markdown(markdown: str, **_: object) -> str:
    """Fill the generated parts of a page in (MkDocs calls this for each page)."""
    return MARKER.sub(lambda match: PARTS[match[1]](), markdown)


class Loaded(HTMLParser):
    """Collects the URLs that a page loads by itself: scripts, styles, icons, pictures and frames."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the URL of one tag."""
        values = dict(attrs)
        url = values.get("src") or (values.get("href") if tag == "link" else None)
        if url:
            self.urls.append(url)


def external_urls(site: Path) -> list[str]:
    """What the pages and style sheets of a built site load from other hosts."""
    urls = []
    for page in site.rglob("*.html"):
        loaded = Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        urls += [f"{page}: {url}" for url in loaded.urls if re.match(r"(?:[a-z]+:)?//", url)]
    for style in site.rglob("*.css"):
        urls += [
            f"{style}: {url}"
            for url in re.findall(
                r"(?:url\(|@import\s*)[\"']?((?:https?:)?//[^\"')]+)", style.read_text(encoding="utf-8")
            )
        ]
    return urls


def on_post_build(config: JSON, **_: object) -> None:
    """Fail if the site loads anything from another host (MkDocs calls this at the end)."""
    if urls := external_urls(Path(config["site_dir"])):
        raise SystemExit("the site loads from other hosts:\n" + "\n".join(urls))
