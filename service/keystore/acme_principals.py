"""`acme-principals.yaml` in a CA's directory: the principals that may have ACME accounts.

It is a mapping: name -> `generation`, from 1, and optionally `thumbprints` and `removed`. A principal that
was removed keeps its entry. Otherwise, adding it again would make its earlier key and accounts valid again.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from service import atomic_write, credentials
from service.keystore import ca_directory, revocation_file
from service.overrides import OverridesError, YAMLSource
from service.pki.acme_key import MAX_GENERATION, AcmePrincipals, is_thumbprint
from service.pki.errors import CAError, CAUnavailable, quote
from service.pki.policy_parser import JSONPath

ACME_PRINCIPALS: Final = "acme-principals.yaml"
_HEADER: Final = "# Principals that may have ACME accounts. `certlet acme` rewrites this file.\n"
_MAX_BYTES: Final = 500_000  # parsing them takes seconds
_MAX_PROBLEMS: Final = 10  # in a message


class AcmePrincipal(NamedTuple):
    """A principal of the file.

    Attributes:
        generation: the generation of its external account key, from 1.
        thumbprints: the thumbprints of account keys that need no external account (RFC 7638, SHA-256).
        removed: whether it was removed; then the generation is the last one that was used.
    """

    generation: int
    thumbprints: tuple[str, ...] = ()
    removed: bool = False


def load(directory: Path) -> AcmePrincipals:
    """Load the principals that may have accounts, none without the file; it is parsed again if it changes.

    Raises:
        CAUnavailable: the file is unreadable or malformed; the cause says why.
    """
    path = directory / ACME_PRINCIPALS
    result = _load(path, atomic_write.file_version(path))
    if isinstance(result, str):
        raise CAUnavailable("the list of ACME principals cannot be loaded") from CAError(result)
    return result


@functools.lru_cache(4)  # each request of a client needs them
def _load(path: Path, _version: tuple[int, ...]) -> AcmePrincipals | str:
    try:
        principals = load_all(path.parent)
    except CAError as error:
        return error.detail
    valid = {name: principal for name, principal in principals.items() if not principal.removed}
    return AcmePrincipals(
        {name: principal.generation for name, principal in valid.items()},
        {thumbprint: name for name, principal in valid.items() for thumbprint in principal.thumbprints},
    )


def load_all(directory: Path) -> dict[str, AcmePrincipal]:
    """Load name -> principal, also those that were removed; empty if there is no file.

    Raises:
        CAError: the file is unreadable or malformed; the message has the file and the lines.
    """
    path = directory / ACME_PRINCIPALS
    if not os.path.lexists(path):
        return {}
    content = revocation_file.read_file(path)
    if len(content) > _MAX_BYTES:
        raise CAError(f"{path} has {len(content)} bytes, more than {_MAX_BYTES}")
    try:
        return _parse(YAMLSource.from_bytes(content))
    except OverridesError as error:
        raise CAError(f"{path}: {error}") from error


def load_files(directory: Path) -> dict[str, bytes]:
    """Load this file and the key of ACME, name -> content, for another directory; {} if there are none.

    Raises:
        CAError: one of them is unreadable or malformed.
    """
    ca_directory.load_acme_key(directory)
    load_all(directory)
    names = [name for name in (ca_directory.ACME_KEY, ACME_PRINCIPALS) if os.path.lexists(directory / name)]
    return {name: revocation_file.read_file(directory / name) for name in names}


def change(
    directory: Path, name: str, update: Callable[[AcmePrincipal | None], AcmePrincipal]
) -> AcmePrincipal:
    """Change a principal in the file, which is replaced atomically, under a lock, unless it stays the same.

    Args:
        directory: the CA's directory.
        name: the principal's name.
        update: returns the new value for the present one, None if there is none; its error changes nothing.

    Returns:
        the new value.

    Raises:
        CAError: the file is unreadable or malformed, would be too long, or has a thumbprint or generation
            that is not possible; nothing was changed.
        OSError: the file cannot be written.
    """
    with atomic_write.locked_directory(directory):
        before = load_all(directory)
        changed = {**before, name: update(before.get(name))}
        content = _encode(changed)
        try:
            if len(content) > _MAX_BYTES:
                raise CAError(f"{directory / ACME_PRINCIPALS} would have more than {_MAX_BYTES} bytes")
            _parse(YAMLSource.from_bytes(content))
        except OverridesError as error:
            details = "; ".join(detail for _, detail in error.problems)
            raise CAError(f"{details}; nothing was changed") from error
        if changed != before:
            atomic_write.write_atomically(directory / ACME_PRINCIPALS, content, 0o600)
    return changed[name]


def _encode(principals: dict[str, AcmePrincipal]) -> bytes:
    """Encode with one principal per line."""
    lines = [_HEADER]
    for name, principal in principals.items():
        members = {member: value for member, value in principal._asdict().items() if value}
        lines.append(f"{json.dumps(name)}: {json.dumps(members)}\n")
    return "".join(lines).encode("ascii")


def _parse(source: YAMLSource) -> dict[str, AcmePrincipal]:
    data = {} if source.data is None else source.data
    if not isinstance(data, dict):
        raise OverridesError([(1, "not a mapping of principals")])
    problems = [*source.duplicates]
    owners: dict[str, str] = {}
    for name, value in data.items():
        for path, detail in (*_problems(name, value), *_listed_twice(name, value, owners)):
            problems.append((source.locate((name, *path)), detail))
    if problems:
        raise OverridesError(sorted(problems)[:_MAX_PROBLEMS])
    return {
        name: AcmePrincipal(value["generation"], tuple(_thumbprints(value)), value.get("removed", False))
        for name, value in data.items()
    }


def _problems(name: str, value: Any) -> Iterator[tuple[JSONPath, str]]:  # noqa: ANN401 - JSON
    """Yield what is wrong with a principal, and its path in the principal."""
    try:
        credentials.verify_name(name)
    except ValueError as error:
        yield (), f"a principal's name {error}: {quote(name)}"
    if not isinstance(value, dict):
        yield (), f"{quote(name)} is not a mapping with a generation"
        return
    for member in value.keys() - set(AcmePrincipal._fields):
        yield (member,), f"unknown key {quote(member)}; known: {', '.join(AcmePrincipal._fields)}"
    generation = value.get("generation")
    if type(generation) is not int or not 1 <= generation <= MAX_GENERATION:  # True is an int
        yield ("generation",), f"the generation of {quote(name)} is not a number from 1 to {MAX_GENERATION}"
    if not isinstance(value.get("removed", False), bool):
        yield ("removed",), "removed is not true or false"
    if not isinstance(value.get("thumbprints", []), list):
        yield ("thumbprints",), "thumbprints is not a list"
    for index, thumbprint in enumerate(_thumbprints(value)):
        if not isinstance(thumbprint, str) or not is_thumbprint(thumbprint):
            path, text = ("thumbprints", index), quote(str(thumbprint))
            yield path, f"{text} is not a thumbprint: 43 characters of base64url (RFC 7638)"


def _listed_twice(name: str, value: Any, owners: dict[str, str]) -> Iterator[tuple[JSONPath, str]]:  # noqa: ANN401 - JSON
    """Yield the thumbprints that have an owner, and add the others to `owners`."""
    for index, thumbprint in enumerate(_thumbprints(value)):
        if isinstance(thumbprint, str) and owners.setdefault(thumbprint, name) != name:
            owner = quote(owners[thumbprint])
            yield ("thumbprints", index), f"the thumbprint {quote(thumbprint)} is already listed for {owner}"


def _thumbprints(value: Any) -> list[Any]:  # noqa: ANN401 - JSON
    thumbprints = value.get("thumbprints") if isinstance(value, dict) else None
    return thumbprints if isinstance(thumbprints, list) else []
