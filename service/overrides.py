"""The operator's profiles file: parse it with the line of each value, and check its profiles."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, Final

from service.pki.errors import escape_controls, quote
from service.pki.policy_parser import JSONPath, ProfileError, ProfileViolation
from service.pki.profile_loader import IssuancePolicy

_MAX_VALUES: Final = 100_000  # a few lines with YAML aliases can expand to billions of values
_TAG: Final = "tag:yaml.org,2002:"
_JSON_TAGS: Final = frozenset({"map", "seq", "str", "int", "float", "bool", "null"})
_TYPES: Final = {"array": "a list", "boolean": "true or false", "object": "a mapping", "string": "text"}


class OverridesError(ValueError):
    """The operator's file is invalid; the message and `problems` list the line and text of each problem."""

    def __init__(self, problems: Iterable[tuple[int, str]]) -> None:
        self.problems = sorted(problems)
        super().__init__("; ".join(f"line {line}: {detail}" for line, detail in self.problems))


class YAMLSource:
    """A YAML text: its value as JSON, and the line of each part.

    Attributes:
        data: the JSON value.
        lines: path -> line, from 1; for a member of a mapping the line of its key.
        duplicates: line and message for each duplicate key, which YAML 1.2 (3.2.1.3) forbids.
    """

    def __init__(self, text: str, loader: str = "SafeLoader") -> None:
        """Parse YAML.

        Args:
            text: the YAML text.
            loader: a loader of PyYAML. CSafeLoader is faster, but crashes on deep nesting.

        Raises:
            OverridesError: the text is not YAML, or has values that JSON does not have.
        """
        import yaml  # noqa: PLC0415 - takes 70 ms, and most commands do not need it

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
            OSError: the file cannot be read.
            OverridesError: the file is not UTF-8, not YAML, or has values that JSON does not have.
        """
        return cls.from_bytes(path.read_bytes())

    @classmethod
    def from_bytes(cls, content: bytes) -> YAMLSource:
        """Parse the content of a file; raise `OverridesError` as `from_file`."""
        try:
            return cls(content.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise OverridesError([(error.object[: error.start].count(b"\n") + 1, "not UTF-8")]) from error

    def _value(self, node: Any, path: JSONPath) -> Any:  # noqa: ANN401 - a node of PyYAML; JSON
        self._values += 1
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        tag = node.tag.removeprefix(_TAG)
        if self._values > _MAX_VALUES:
            raise OverridesError([(line, "too many values; use fewer aliases")])
        if tag not in _JSON_TAGS:
            raise OverridesError([(line, f"{quote(tag)} is not a JSON type")])
        if node.id == "sequence":
            return [self._value(child, (*path, index)) for index, child in enumerate(node.value)]
        if node.id == "mapping":
            return self._mapping(node, path, {})
        try:
            return self._constructor.construct_object(node)
        except (LookupError, ValueError) as error:
            raise OverridesError([(line, f"{quote(node.value)} is not of the type {tag}")]) from error

    def _mapping(self, node: Any, path: JSONPath, members: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401 - as above
        """Add the members of a mapping, then those of mappings merged by `<<` (YAML 1.1) that are missing."""
        names: set[str] = set()
        sources: list[Any] = []
        for key, child in node.value:
            if path and key.tag == f"{_TAG}merge":
                sources += child.value if child.id == "sequence" else [child]
                continue
            name, line = str(key.value), key.start_mark.line + 1
            if name in names:
                self.duplicates.add((line, f"duplicate key {quote(name)}"))
            names.add(name)
            if name not in members:
                self.lines[*path, name] = line
                members[name] = self._value(child, (*path, name))
        for source in sources:
            if source.id != "mapping":
                raise OverridesError([(source.start_mark.line + 1, "<< can merge only mappings")])
            self._mapping(source, path, members)
        return members

    def locate(self, path: JSONPath) -> int:
        """Return the line of a path, or of its closest ancestor in the text."""
        return next(
            self.lines[path[:depth]] for depth in range(len(path), -1, -1) if path[:depth] in self.lines
        )


def merge_patch(target: Any, patch: Any) -> Any:  # noqa: ANN401 - JSON
    """Apply a JSON Merge Patch (RFC 7396 section 2)."""
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
    """Check the profiles (JSON) against `profiles.schema.json`, then by the rules that no schema can express.

    Raises:
        ProfileError: the profiles are invalid; the error lists every violation.
    """
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - takes 0.1 s; tests check the contract's profiles

    schema = json.loads(resources.files("service").joinpath("profiles.schema.json").read_bytes())
    errors = Draft202012Validator(schema).iter_errors(policy)
    violations = {violation for error in errors for violation in _violations(error)}
    if isinstance(policy, dict):
        try:
            IssuancePolicy(
                policy.get("profiles"),
                policy.get("default"),
                policy.get("principals"),
                policy.get("identities", {}),
            )
        except ProfileError as error:
            paths = {violation.path for violation in violations}  # the schema's messages are clearer
            violations |= {violation for violation in error.violations if violation.path not in paths}
    if violations:
        raise ProfileError(sorted(violations, key=str))


def _violations(error: Any) -> Iterator[ProfileViolation]:  # noqa: ANN401 - jsonschema's errors are not typed
    """Convert an error of the schema to violations; the subschema's title describes the expected value."""
    path, value, schema = tuple(error.absolute_path), error.instance, error.schema
    if error.validator == "additionalProperties":
        names = schema["properties"]
        for name in value.keys() - names.keys():
            yield ProfileViolation((*path, name), f"unknown key; known: {', '.join(names)}")
    elif error.validator == "required":
        missing = (name for name in error.validator_value if name not in value)
        yield ProfileViolation(path, f"missing: {', '.join(missing)}")
    elif error.validator == "uniqueItems":
        yield ProfileViolation(path, "an entry is listed twice")
    else:
        if "propertyNames" in error.absolute_schema_path:
            path = (*path, value)
        prefix = f"{quote(str(value))}: " if isinstance(value, str | int | float) else ""
        yield ProfileViolation(path, f"{prefix}expected {schema.get('title') or _TYPES[schema['type']]}")
