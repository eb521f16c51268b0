"""`certlet check`: what is wrong with the certificate profiles, with the file and line where it stands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import yaml
from jsonschema import Draft202012Validator

from service import contract
from service.pki.policy import ProfileError
from service.pki.rules import Path as Place

_IN_CONTRACT: Final = {
    "profiles": (contract.PROFILES,),
    "principals": (contract.PRINCIPALS,),
    "default": ("components", "schemas", "ProfileName", "default"),
}


@dataclass(frozen=True)
class Finding:
    """One fault, or one warning."""

    file: str
    line: int
    text: str
    is_fault: bool = True

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {'' if self.is_fault else 'warning: '}{self.text}"


def findings(own: Path | None) -> list[Finding]:
    """Every fault of the profiles, or every warning if there is no fault, in the order of their lines.

    They are held against `profiles.schema.json` and against what only a program can know, such as whether a
    validity is shorter than its backdate.

    Args:
        own: the operator's own profiles; None for the contract's alone.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        document = contract.load(own)
    except contract.ContractError as error:
        return [Finding(str(own), line, detail) for line, detail in error.faults]
    lines = _Lines(own)
    faults = _faults(document)
    if faults:
        found = [
            Finding(*lines.of(place), f"{'.'.join(map(str, place))}: {detail}")
            for place, detail in faults.items()
        ]
    else:
        found = [
            Finding(*lines.of(("profiles", name)), text, is_fault=False)
            for name, text in contract.profiles(document).warnings()
        ]
    return sorted(found, key=lambda each: (each.file, each.line))


def schema() -> dict[str, Any]:
    """`profiles.schema.json`."""
    text = resources.files("service").joinpath("profiles.schema.json").read_text(encoding="utf-8")
    return json.loads(text)  # type: ignore[no-any-return]


def stated(document: contract.Document) -> dict[str, object]:
    """What the schema describes, of a contract."""
    return {
        "profiles": document[contract.PROFILES],
        "default": document["components"]["schemas"]["ProfileName"]["default"],
        "principals": document[contract.PRINCIPALS],
    }


def _faults(document: contract.Document) -> dict[Place, str]:
    """Place -> what is wrong there, once: the policy's own sentence where there is one."""
    faults: dict[Place, str] = {}
    for error in Draft202012Validator(schema()).iter_errors(stated(document)):
        for place in _places(error):
            faults[place] = f"{error.validator} of profiles.schema.json is not kept"
    try:
        contract.profiles(document)
    except ProfileError as error:
        faults |= {fault.path: fault.detail for fault in error.faults}
    return faults


def _places(error: Any) -> Iterator[Place]:  # noqa: ANN401 - jsonschema's own error class is not typed
    place = tuple(error.absolute_path)
    if error.validator == "additionalProperties":
        for unknown in sorted(error.instance.keys() - error.schema.get("properties", {}).keys()):
            yield (*place, unknown)
    else:
        yield place


class _Lines:
    """Where things stand: in the operator's file as far as it mentions them, else in the contract."""

    def __init__(self, own: Path | None) -> None:
        self._own = own
        self._nodes = contract.compose(contract.read(own)) if own else None
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        self._contract = yaml.compose(contract.source(), Loader=loader)

    def of(self, place: Place) -> tuple[str, int]:
        """File and line."""
        depth, line = _walk(self._nodes, place)
        if self._own and depth > (1 if len(place) > 1 else 0):
            return str(self._own), line
        _, line = _walk(self._contract, (*_IN_CONTRACT[str(place[0])], *place[1:]))
        return "openapi.yaml", line


def _walk(node: yaml.Node | None, place: Place) -> tuple[int, int]:
    """How far a place can be followed, and the line of what is there."""
    line = node.start_mark.line + 1 if node else 1
    for depth, part in enumerate(place):
        found = None
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = (node.value[part], node.value[part])
        if found is None:
            return depth, line
        line, node = found[0].start_mark.line + 1, found[1]
    return len(place), line
