"""The operator's profiles file: read with the line of each value, and its profiles checked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, Final

from service.pki.errors import escape_controls, quote
from service.pki.profile_loader import IssuancePolicy, JSONPath, ProfileError, ProfileViolation

_MAX_VALUES: Final = 100_000  # aliases repeat values: a few lines can stand for billions
_TAG: Final = "tag:yaml.org,2002:"
_JSON_TAGS: Final = frozenset({"map", "seq", "str", "int", "float", "bool", "null"})
_TYPES: Final = {"array": "a list", "boolean": "true or false", "object": "a mapping", "string": "text"}


class OverridesError(ValueError):
    """The operator's file has problems; the message and `problems` list the line of each, and a sentence."""

    def __init__(self, problems: Iterable[tuple[int, str]]) -> None:
        self.problems = sorted(problems)
        super().__init__("; ".join(f"line {line}: {detail}" for line, detail in self.problems))


class YAMLSource:
    """A YAML text: what it says as JSON, and where.

    Attributes:
        data: JSON.
        lines: the line of each value, from 1; of a member of a mapping it is its key's.
        duplicates: line and sentence of each key that a mapping has twice, which YAML 1.2 3.2.1.3 forbids.
    """

    def __init__(self, text: str, loader: str = "SafeLoader") -> None:
        """Parse YAML by PyYAML's loader of that name; libyaml's (CSafeLoader) crashes on deep nesting.

        Raises:
            OverridesError: it is not YAML, or has values that JSON has not.
        """
        import yaml  # noqa: PLC0415 - 70 ms that most commands do without

        self.lines: dict[JSONPath, int] = {(): 1}
        self.duplicates: set[tuple[int, str]] = set()
        self._constructor = yaml.constructor.SafeConstructor()
        self._values = 0
        try:
            root = yaml.compose(text, Loader=getattr(yaml, loader, yaml.SafeLoader))
            self.data: Any = None if root is None else self._value(root, ())
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            detail = escape_controls(" ".join(str(error).split()))[:200]
            raise OverridesError([(mark.line + 1 if mark else 1, f"not YAML: {detail}")]) from error
        except RecursionError as error:
            raise OverridesError([(1, "nested too deeply")]) from error

    @classmethod
    def from_file(cls, path: Path) -> YAMLSource:
        """Parse a file.

        Raises:
            OSError: it cannot be read.
            OverridesError: it is not UTF-8, or as above.
        """
        try:
            return cls(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise OverridesError([(error.object[: error.start].count(b"\n") + 1, "not UTF-8")]) from error

    def _value(self, node: Any, path: JSONPath) -> Any:  # noqa: ANN401 - a node of PyYAML; JSON
        self._values += 1
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        tag = node.tag.removeprefix(_TAG)
        if self._values > _MAX_VALUES:
            raise OverridesError([(line, "aliases repeat too much")])
        if tag not in _JSON_TAGS:
            raise OverridesError([(line, f"{quote(tag)} is not a type of JSON")])
        if node.id == "sequence":
            return [self._value(child, (*path, index)) for index, child in enumerate(node.value)]
        if node.id == "mapping":
            return self._mapping(node, path, {})
        try:
            return self._constructor.construct_object(node)
        except (LookupError, ValueError) as error:
            raise OverridesError([(line, f"{quote(node.value)} is not of the type {tag}")]) from error

    def _mapping(self, node: Any, path: JSONPath, members: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401 - as above
        """Add the members of a mapping, then those that it merges (`<<`, YAML 1.1) and does not have."""
        names: set[str] = set()
        merged: list[Any] = []
        for key, child in node.value:
            if path and key.tag == f"{_TAG}merge":
                merged += child.value if child.id == "sequence" else [child]
                continue
            name, line = str(key.value), key.start_mark.line + 1
            if name in names:
                self.duplicates.add((line, f"duplicate key {quote(name)}"))
            names.add(name)
            if name not in members:
                self.lines[*path, name] = line
                members[name] = self._value(child, (*path, name))
        for source in merged:
            if source.id != "mapping":
                raise OverridesError([(source.start_mark.line + 1, "<< merges mappings only")])
            self._mapping(source, path, members)
        return members

    def locate(self, path: JSONPath) -> int:
        """The line of a path, or of as much of it as the text has."""
        return next(
            self.lines[path[:depth]] for depth in range(len(path), -1, -1) if path[:depth] in self.lines
        )


def merge_patch(target: Any, patch: Any) -> Any:  # noqa: ANN401 - JSON
    """JSON Merge Patch, RFC 7396 2."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), value)
    return result


def verify_policy(policy: object) -> None:
    """Check profiles, JSON, by `profiles.schema.json`, and by what a schema cannot say.

    Raises:
        ProfileError: they are not well formed; it lists every fault.
    """
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - 0.1 s; the contract's own are checked by tests

    schema = json.loads(resources.files("service").joinpath("profiles.schema.json").read_bytes())
    faults = {
        fault for error in Draft202012Validator(schema).iter_errors(policy) for fault in _violations(error)
    }
    if isinstance(policy, dict):
        try:
            IssuancePolicy(policy.get("profiles"), policy.get("default"), policy.get("principals"))
        except ProfileError as error:
            paths = {fault.path for fault in faults}  # the schema says more plainly what is expected there
            faults |= {fault for fault in error.violations if fault.path not in paths}
    if faults:
        raise ProfileError(sorted(faults, key=str))


def _violations(error: Any) -> Iterator[ProfileViolation]:  # noqa: ANN401 - jsonschema's errors are not typed
    """An error of the schema as faults; a subschema's title says what it expects."""
    path, value, schema = tuple(error.absolute_path), error.instance, error.schema
    if error.validator == "additionalProperties":
        known = schema["properties"]
        for name in value.keys() - known.keys():
            yield ProfileViolation((*path, name), f"unknown key; known: {', '.join(known)}")
    elif error.validator == "required":
        missing = (name for name in error.validator_value if name not in value)
        yield ProfileViolation(path, f"{', '.join(missing)} missing")
    elif error.validator == "uniqueItems":
        yield ProfileViolation(path, "an entry is listed twice")
    else:
        if "propertyNames" in error.absolute_schema_path:
            path = (*path, value)
        shown = f"{quote(str(value))}: " if isinstance(value, str | int | float) else ""
        yield ProfileViolation(path, f"{shown}expected {schema.get('title') or _TYPES[schema['type']]}")
