"""Every example of an answer in the contract: how it is asked for, and what of it another CA, key or time changes.

`make examples` asks for all of them, and writes what was answered to the contract's end.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs7

from service.pki import encoding
from tests import csrs, factories, servers
from tests.est.devices import basic_auth, client_context, encode_body, parse_certificates
from tests.gateway import second_api
from tests.gateway.cases import JSON, KEY
from tests.servers import Answer, Server

CONTRACT: Final = servers.ROOT / "openapi.yaml"
MARK: Final = (
    "  # Recorded responses: `make examples` sends the requests and writes the responses here.\n  examples:\n"
)
EST: Final = "/.well-known/est"
PKCS10: Final = {"Content-Type": "application/pkcs10"}
BEGINNING: Final = 6  # lines of a page


@dataclass
class Sites:
    """What is asked.

    Attributes:
        plain: `certlet serve`, without its usage plan.
        tls: the same over HTTPS.
        troubled: with its usage plan, and a list of revoked certificates that is none.
        broken: the contract with a function that does as it is told, and a mock that is wrong.
    """

    plain: Server
    tls: Server
    troubled: Server
    broken: Server


@contextlib.contextmanager
def sites(directory: Path) -> Iterator[Sites]:
    """All of them, until the end of the block."""
    for name in ("plain", "tls", "troubled", "broken"):
        (directory / name).mkdir()
    assert not servers.certlet("init", "ca", cwd=directory / "troubled").returncode
    (directory / "troubled" / "ca" / "revoked.yaml").write_text("{}")
    document = json.loads(json.dumps(factories.document()))
    for item in document["paths"].values():
        item.get("get", {}).get("x-amazon-apigateway-integration", {})["timeoutInMillis"] = 900
    form = document["paths"]["/sign"]["get"]["x-amazon-apigateway-integration"]
    form["requestTemplates"] = {"application/json": "{"}
    with (
        servers.serving(directory / "plain", "--no-usage-plan") as plain,
        servers.serving(directory / "tls", "--no-usage-plan", "--tls") as tls,
        servers.serving(directory / "troubled") as troubled,
        second_api.gateway(directory / "broken", document) as broken,
    ):
        yield Sites(plain, tls, troubled, broken)


def sent(site: Server, name: str, path: str = "", media_type: str = "", **headers: str) -> Answer:
    """An operation's own example, sent to it, or to a path of it with parameters."""
    for of, item in factories.document()["paths"].items():
        for method, operation in item.items():
            if operation.get("operationId") == name:
                content = operation["requestBody"]["content"]
                chosen = media_type or next(iter(content))
                example = content[chosen]["example"]
                body = (example if isinstance(example, str) else json.dumps(example)).encode()
                context = client_context(site) if site.url.startswith("https:") else None
                given = {"Content-Type": chosen, **KEY, **headers}
                return site.request(method.upper(), path or of, body, given, context)
    raise KeyError(name)


def got(path: str, **headers: str) -> Callable[[Sites], Answer]:
    """GET a path of the plain server."""
    return lambda at: at.plain.request("GET", path, headers=headers)


def posted(path: str, body: object, **headers: str) -> Callable[[Sites], Answer]:
    """POST JSON to the plain server with a key."""
    return lambda at: at.plain.request("POST", path, json.dumps(body).encode(), {**JSON, **KEY, **headers})


def device(method: str, path: str, body: bytes | None = None, **headers: str) -> Callable[[Sites], Answer]:
    """Ask EST over HTTPS, as somebody without a client certificate."""
    given = {**(PKCS10 if body else {}), **headers}
    return lambda at: at.tls.request(method, EST + path, body, given, client_context(at.tls))


def enrolled(at: Sites, path: str = "/simplereenroll") -> Answer:
    """Send the example of a renewal with a certificate of its own names in the handshake."""
    request = encode_body(csrs.build("www.example.com", ["dns:www.example.com"]))
    first = device("POST", "/peer/simpleenroll", request, **KEY)(at)
    context = client_context(at.tls, parse_certificates(first.body)[0])
    example = factories.document()["paths"][f"{EST}/simplereenroll"]["post"]["requestBody"]["content"]
    renewal = example["application/pkcs10"]["example"].encode()
    return at.tls.request("POST", EST + path, renewal, PKCS10, context)


def other_request() -> str:
    return csrs.encode_pem(csrs.build("other.example.com")).decode()


def refused(at: Sites) -> Answer:
    """A request with two reasons against it."""
    made = csrs.build("localhost.", [], [x509.BasicConstraints(ca=True, path_length=None)])
    return at.plain.sign({"csr": csrs.encode_pem(made).decode()})


def hurried(at: Sites) -> Answer:
    """More requests at once than the usage plan has."""
    answers = [at.troubled.request("GET", "/profiles") for _ in range(200)]
    return next(each for each in answers if each.status == 429)


def listless(at: Sites) -> Answer:
    """What a list that is none comes to, once the usage plan lets somebody ask."""
    answers = (at.troubled.request("GET", "/ca.crl") for _ in range(1000))
    return next(answer for answer in answers if answer.status != 429)


def told(do: str) -> Callable[[Sites], Answer]:
    """What comes of a function that does this, once one is there."""

    def ask(at: Sites) -> Answer:
        servers.wait_until(lambda: at.broken.request("GET", "/health").status == 200)
        return at.broken.request("GET", f"/health?do={do}")

    return ask


def busy(at: Sites) -> Answer:
    """What the second of two callers hears, of whom the first has the only function."""
    told("")(at)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(at.broken.request, "GET", "/health?do=hang") for _ in range(4)]
        return next(each.result() for each in asked if each.result().status == 503)


@dataclass(frozen=True)
class Example:
    """An example of an answer: its summary, its status, and how to ask for it."""

    summary: str
    status: int
    ask: Callable[[Sites], Answer]


ENROLLED: Final = "The certificate, in base64 of PKCS#7."
BINARY: Final = "In base64; the answer itself is the octets."
EXAMPLES: Final = {
    "form": Example("How the page begins.", 200, got("/sign")),
    "problems": Example("How the page begins.", 200, got("/problems")),
    "sign": Example("The certificate for this operation's example.", 200, lambda at: sent(at.plain, "sign")),
    "dryRun": Example("What would be issued for it.", 202, lambda at: sent(at.plain, "sign", "/sign?dry_run=true")),
    "signPem": Example("A certificate and its issuer.", 200, lambda at: sent(at.plain, "signPem")),
    "signBatch": Example("Two certificates.", 200, lambda at: sent(at.plain, "signBatch")),
    "ca": Example("A CA that was never rolled over.", 200, got("/ca")),
    "caCrt": Example(BINARY, 200, got("/ca.crt")),
    "caPem": Example("The issuing CA and its root.", 200, got("/ca.pem")),
    "caP7c": Example(BINARY, 200, got("/ca.p7c")),
    "caCrl": Example(BINARY, 200, got("/ca.crl")),
    "rootCrt": Example(BINARY, 200, got("/root.crt")),
    "profiles": Example("The profiles that stand in this document.", 200, got("/profiles")),
    "myProfiles": Example("A caller that may use all of them.", 200, got("/profiles/mine", **KEY)),
    "health": Example("Ready.", 200, got("/health")),
    "estCacerts": Example("The issuing CA and its root.", 200, device("GET", "/cacerts")),
    "estSimpleenroll": Example(ENROLLED, 200, lambda at: sent(at.tls, "estSimpleenroll")),
    "estSimplereenroll": Example(ENROLLED, 200, enrolled),
    "methodNotAllowed": Example("DELETE of a path that has it not.", 405, lambda at: at.plain.request("DELETE", "/ca")),
    "malformed": Example("A body without `csr`, and with a profile that does not exist.", 400, posted("/sign", {"profile": "admin"})),
    "forbidden": Example("No API key.", 403, posted("/sign", {}, **{"x-api-key": ""})),
    "httpsRequired": Example("EST over plain HTTP.", 403, got(f"{EST}/cacerts")),
    "unknownLabel": Example("A label that no profile has.", 404, device("GET", "/admin/cacerts")),
    "unauthorized": Example("No credentials.", 401, device("POST", "/simpleenroll", b"x")),
    "enrollmentRefused": Example("A body that is no request.", 400, device("POST", "/simpleenroll", b"garbage", **KEY)),
    "enrollmentForbidden": Example("A wrong password.", 403, device("POST", "/simpleenroll", b"x", Authorization=basic_auth("wrong"))),
    "renewalForbidden": Example("No client certificate.", 403, device("POST", "/simplereenroll", b"x")),
    "tooLarge": Example("A body of a megabyte.", 413, lambda at: at.plain.request("POST", "/sign", b" " * 1_048_576, {**JSON, **KEY})),
    "unsupportedMediaType": Example("A body of XML.", 415, lambda at: at.plain.request("POST", "/sign", b"<csr/>", {"Content-Type": "application/xml", **KEY})),
    "refused": Example("A name that ends with a dot, and a request to be a CA.", 422, refused),
    "rateLimited": Example("Too many requests at once.", 429, hurried),
    "internalError": Example("A fault of the service.", 500, lambda at: at.broken.request("GET", "/sign")),
    "badGateway": Example("A function that fails.", 502, told("raise")),
    "unavailable": Example("An issuer that cannot issue.", 503, listless),
    "busy": Example("No function is free.", 503, busy),
    "timedOut": Example("A function that takes too long.", 504, told("hang")),
}  # fmt: skip


def value(answer: Answer) -> Any:
    """An answer as an example has it: JSON, text, how a page begins, or base64 of octets."""
    media_type = answer.headers["Content-Type"].partition(";")[0]
    if media_type.endswith("json"):
        return answer.json()
    if media_type == "text/html":
        return "".join(answer.body.decode().splitlines(keepends=True)[:BEGINNING])
    if media_type == "application/pem-certificate-chain" or "Content-Transfer-Encoding" in answer.headers:
        return answer.body.decode()
    return base64.b64encode(answer.body).decode()


_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", re.DOTALL)
_CA: Final = re.compile(r"(CA) [0-9a-f]{6}\b")
_OF_A_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_OF_A_REQUEST: Final = re.compile(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_OF_A_KEY: Final = re.compile(r"(?<![0-9A-Za-z])([0-9a-f]{2}){16,32}(?![0-9A-Za-z])")
_IN_TEXT: Final = re.compile(
    r"(Serial Number:|Signature Value:|Authority Key Identifier:)\s+([0-9A-Fa-f]{2}:\s*)+[0-9A-Fa-f]{2}"
    r"|(Not Before:|Not After :) [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4} GMT"
)
_CA_KEY: Final = re.compile(r"(pub:|Subject Key Identifier:)\s+([0-9A-Fa-f]{2}:\s*)+[0-9A-Fa-f]{2}")


def normal(found: Any) -> Any:
    """What any CA of these profiles answers, at any time: times, serial numbers, and what comes of the CA's keys
    and name stand for themselves; all else is kept, what certificates hold among it.
    """
    if isinstance(found, dict):
        return {name: normal(each) for name, each in found.items()}
    if isinstance(found, list):
        return [normal(each) for each in found]
    return _normal_text(found) if isinstance(found, str) else found


def _normal_text(text: str) -> Any:
    held = _held(text)
    if held is not None:
        return held
    kept = _PEM.sub(lambda match: _certificate(x509.load_pem_x509_certificate(match[0].encode())), text)
    for pattern, instead in (
        (_IN_TEXT, lambda match: f"{match[1] or match[3]} …"),
        (_CA, r"\1 …"),
        (_OF_A_TIME, "a time"),
        (_OF_A_REQUEST, "a request"),
        (_OF_A_KEY, "of a key"),
    ):
        kept = pattern.sub(instead, kept)
    return kept


def _held(text: str) -> list[str] | str | None:
    """What base64 holds: certificates, or a list; None if it is none."""
    try:
        der = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    for load in (x509.load_der_x509_certificate, pkcs7.load_der_pkcs7_certificates, x509.load_der_x509_crl):
        with contextlib.suppress(ValueError):
            return _described(load(der))
    return None


def _described(loaded: Any) -> list[str] | str:
    if isinstance(loaded, x509.Certificate):
        return _certificate(loaded)
    if isinstance(loaded, list):
        return [_certificate(each) for each in loaded]
    span = loaded.next_update_utc - loaded.last_update_utc
    issuer = _CA.sub(r"\1 …", loaded.issuer.rfc4514_string())
    kinds = [(each.oid.dotted_string, each.critical) for each in loaded.extensions]
    return f"{issuer} {loaded.signature_algorithm_oid.dotted_string} {span} {kinds} {len(loaded)}"


def _certificate(certificate: x509.Certificate) -> str:
    """All that it holds, but for times, the serial number, and the CA's keys; and how long it is valid."""
    text = _IN_TEXT.sub(lambda match: f"{match[1] or match[3]} …", encoding.to_text(certificate))
    if "CA:TRUE" in text:
        text = _CA_KEY.sub(r"\1 …", text)
    span = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return _CA.sub(r"\1 …", text) + str(span)


class _Dumper(yaml.SafeDumper):
    """Text of several lines as such."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def write(answers: dict[str, Any]) -> None:
    """Put examples to the contract's end, in place of those that were there."""
    stated = {name: {"summary": EXAMPLES[name].summary, "value": each} for name, each in answers.items()}
    text = yaml.dump(stated, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
    before = CONTRACT.read_text(encoding="utf-8").partition(MARK)[0]
    lines = "".join(f"    {line}" if line.strip() else line for line in text.splitlines(keepends=True))
    CONTRACT.write_text(before + MARK + lines, encoding="utf-8")


def main() -> int:
    """Ask for every example, and write those that no longer say what is answered."""
    known = factories.document()["components"].get("examples", {})
    with tempfile.TemporaryDirectory() as directory, sites(Path(directory)) as at:
        found = {}
        for name, example in EXAMPLES.items():
            answer = example.ask(at)
            assert answer.status == example.status, (name, answer)
            kept = known.get(name, {}).get("value")
            found[name] = kept if normal(kept) == normal(value(answer)) else value(answer)
    write(found)
    sys.stdout.write(f"{len(found)} examples\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
