"""The core: certificate signing requests in, certificates out.

Values and pure functions on top of `cryptography`. This package uses no clock, environment, network, logging
or framework, and imports no other package of `service` (enforced by import-linter).
"""
