"""Verification of certificates by software of other projects.

certificate_cases   every profile x CA key type x subject key type, and certificates with a defect
verifiers           the verifiers, and how to run each
known_deviations    each verifier's error for each defect, and cases that it cannot verify, with the reason
matrix              the table of results, printed at the end of a run
verifier.go, Verifier.java, verifier.mjs, pkilint_runner
                    programs around verifiers that are libraries: each verifies all cases in one run
RevocationChecker.java, ocsp.go
                    programs around libraries that ask by OCSP
"""
