"""Which licences a package may have that ships or runs: permissive ones, from its own metadata."""

from __future__ import annotations

import functools
from email.message import Message
from typing import Final

from license_expression import ExpressionError, Licensing, get_spdx_licensing

ALLOWED: Final = frozenset(
    {"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "PSF-2.0", "Python-2.0"}
)

# The only ones that are not permissive as such, each with its reason.
EXCEPTIONS: Final = {
    # Root certificates as data, unchanged; copyleft ends at the file. Connexion requires it by way of
    # requests; it is not in the zip.
    "certifi": "MPL-2.0",
}

# What the older metadata says, as SPDX has it: a package without License-Expression.
_CLASSIFIERS: Final = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}


class LicenceError(Exception):
    """A package's licence is unknown or not allowed; the message names it, in one line."""


def expression(package: Message) -> str:
    """The licence of a package, an SPDX expression, from its core metadata (PEP 639, or older).

    Raises:
        LicenceError: it states none that is known.
    """
    stated = package["License-Expression"] or package["License"] or ""
    try:
        parsed = _licensing().parse(stated, validate=True, strict=True)
    except ExpressionError:  # free text, such as the whole licence
        parsed = None
    return _classified(package) if parsed is None else str(parsed)


@functools.cache
def _licensing() -> Licensing:
    return get_spdx_licensing()


def _classified(package: Message) -> str:
    stated = [
        each.rpartition(" :: ")[2]
        for each in package.get_all("Classifier") or []
        if each.startswith("License")
    ]
    known = [_CLASSIFIERS[each] for each in stated if each in _CLASSIFIERS]
    if not known or len(known) != len(stated):
        raise LicenceError(f"{package['Name']} states no licence that is known: {stated}")
    return " AND ".join(sorted(known))


def verify(package: Message) -> None:
    """Check that a package's licence is allowed.

    Raises:
        LicenceError: it is not, or unknown.
    """
    stated = expression(package)
    allowed = [*ALLOWED, *filter(None, [EXCEPTIONS.get(package["Name"])])]
    licensing = _licensing()
    # A choice (OR) is allowed if one of its licences is; a sum (AND) if all of them are.
    granted = licensing.parse(stated).subs({licensing.parse(each): licensing.TRUE for each in allowed})
    if granted.simplify() != licensing.TRUE:
        raise LicenceError(f"{package['Name']} is under {stated}")
