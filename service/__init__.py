"""Certlet: a private certificate authority whose whole interface is one OpenAPI document.

    HTTP -- gateway -- Lambda event -- aws_lambda -- aws-wsgi -- Connexion -- operations -- authority -- pki
             | on AWS: API Gateway, from openapi.yaml
             ` locally: service.gateway, from the same openapi.yaml

A certification request goes in at the left, a certificate comes out, nothing is stored. The map:

    contract     openapi.yaml: loaded once, made ready for import and for serving
    overrides    the operator's profiles file: parsed with line numbers, checked by profiles.schema.json
    pki          the core: requests, keys, names, profiles, issuers, certificates, renewal, CRLs. Pure
    signers      where the CA's key lives; each returns an ordinary private key. And the lists beside it
    authority    issuance: parse, verify, evaluate, record the intent, sign, verify, record the result
    audit        the record of what was issued: a storageless CA's only memory
    settings     what the environment says
    secrecy      no core files of processes that hold secrets; which variables hold secrets
    credentials  which API key a request carries
    web          Connexion executes the contract: validators, identity, operations, EST; the authorizer
    gateway      the local API Gateway, its HTTPS, and the contract for people; knows nothing of certificates.
                 One queue for all workers (worker_pool, worker); Landlock around the HTTP process (sandbox)
    aws_lambda   handler(event, context): composes all of the above
    supervisor   `certlet serve`: the gateway and its workers, each in a process of its own
    self_issued  the key and the certificate of `certlet serve --tls`
    cli, client  the command line, and the HTTP client behind `certlet sign`
    profile_lint `certlet check`: problems of the profiles, line by line

Standards: RFC 2986 (requests), 5280 (certificates and CRLs), 5891 (internationalized names), 6979
(deterministic ECDSA), 7030 and 8951 (EST), 7396 (merged profiles), 7468 (PEM), 7617 (HTTP Basic), 8555
section 6.7 (the words for refusals), 8813 and 9881 (key usage), 9457 (problems), 9525 (server names), 9562
(UUIDv7), 9608 (noRevAvail).
"""
