"""Verify tokens of workloads (OpenID Connect ID tokens and other JWTs, RFC 7519) by the operator's rules."""
