"""Run pkilint in one process: `python -m tests.interop.pkilint_runner FOLDER`.

The output has a line for each case and linter: the linter, the case, "ok" or the codes of the findings.

`pkilint` lints single certificates by RFC 5280: the leaf, the signing CA and the root. `pkilint-chain` lints pairs of
issuer and subject: the signing CA and the leaf, the root and the signing CA. tests/test_crl.py uses pkilint's linter for
CRLs, and test_public_rules.py that for public TLS servers.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from pkilint import loader
from pkilint.bin import lint_pkix_signer_signee_cert_chain as chain_linter
from pkilint.document import Document
from pkilint.pkix import certificate, extension, name
from pkilint.validation import ValidationResult

# Not an error: the identifier is a hash of the key (RFC 5280 4.2.1.2, method 1).
IGNORED = "pkix.subject_key_identifier_method_1_identified"
LOADER = loader.RFC5280CertificateDocumentLoader()


def finding_codes(results: list[ValidationResult]) -> list[str]:
    """Return the codes of all findings."""
    codes = {description.finding.code for result in results for description in result.finding_descriptions}
    return sorted(codes - {IGNORED})


@functools.cache
def create_container() -> certificate.CertificateValidatorContainer:
    """Create the RFC 5280 linter, as `lint_pkix_cert` does."""
    return certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ],
    )


@functools.cache
def lint(text: str) -> list[str]:
    """Lint a PEM certificate; return the findings' codes."""
    return finding_codes(create_container().validate(LOADER.load_pem_document(text).root))


@functools.cache
def lint_pair(issuer: str, subject: str) -> list[str]:
    """Lint the PEM certificates of an issuer and of a subject; return the findings' codes."""
    documents: dict[str, Document] = {}
    for role, text in (("issuer", issuer), ("subject", subject)):
        documents[role] = LOADER.load_pem_document(text, role, role, documents)
    decoding = chain_linter.create_decoder_validation_container()
    results = decoding.validate(documents["issuer"].root) + decoding.validate(documents["subject"].root)
    results += chain_linter.create_issuer_validation_container().validate(documents["issuer"].root)
    results += chain_linter.create_subject_validation_container().validate(documents["subject"].root)
    return finding_codes(results)


def main(directory: Path) -> None:
    for line in (directory / "cases.tsv").read_text().splitlines():
        case = line.partition("\t")[0]
        leaf, chain, root = (
            (directory / case / f"{part}.pem").read_text() for part in ("leaf", "chain", "root")
        )
        certificate_codes = lint(leaf) + lint(chain) + lint(root)
        pair_codes = lint_pair(chain, leaf) + lint_pair(root, chain)
        for linter, codes in (("pkilint", certificate_codes), ("pkilint-chain", pair_codes)):
            sys.stdout.write(f"{linter}\t{case}\t{' '.join(codes) or 'ok'}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
