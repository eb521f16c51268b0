"""Certlet: a private certificate authority whose whole interface is one OpenAPI document.

    HTTP -- gateway -- Lambda event -- aws_lambda -- aws-wsgi -- Connexion -- operations -- authority -- pki
             | on AWS: API Gateway, from openapi.yaml
             ` locally: service.gateway, from the same openapi.yaml

A certificate signing request enters on the left and a certificate returns. Nothing is stored. The modules:

    openapi      load openapi.yaml, merge the operator's profiles, render it for clients
    api_gateway  render the contract for API Gateway and CloudFormation
    overrides    parse the operator's profiles file with line numbers; check it against profiles.schema.json
    pki          the core, pure: requests, keys, names, profiles, issuers, certificates, renewal, CRLs
    keystore     load the CA's key (file, Secrets Manager, KMS), certificates, deny list and revocation list
    authority    issue: parse, verify, evaluate, record the intent, sign, verify, record the result
    audit        write the audit log: the only record of what was issued; count it (audit_counts)
    settings     read the environment variables
    hardening    protect processes that hold secrets: no core dumps, no ptrace
    credentials  find the API key of a request
    web          Connexion executes the contract: validation, identity, operations, EST; the authorizer
    gateway      the local API Gateway, its HTTPS and API docs; independent of certificates.
                 One queue for all workers (worker_pool, worker); Landlock around the HTTP process (sandbox);
                 metrics and probes on a listener of their own (monitoring)
    aws_lambda   handler(event, context): composes all of the above
    supervisor   `certlet serve`: starts the gateway and its workers, each in its own process
    self_issued  the key and the certificate of `certlet serve --tls`
    atomic_write create and replace files atomically; lock directories
    cli, client  the command line, and the HTTP client behind `certlet sign`
    profile_lint `certlet check`: problems of the profiles, with file and line

Standards: RFC 2986 (certificate signing requests), 5280 (certificates and CRLs), 5891 (internationalized
names), 6979 (deterministic ECDSA), 7030 and 8951 (EST), 7396 (merge patches for profiles), 7468 (PEM), 7617
(HTTP Basic), 8555 section 6.7 (error codes), 8813 and 9881 (key usage), 9457 (problem documents), 9525
(server names), 9562 (UUIDv7), 9608 (noRevAvail).
"""
