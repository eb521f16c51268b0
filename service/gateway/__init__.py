"""A local replacement for API Gateway (REST API), for a laptop or a small server.

Its behaviour comes from the contract only. Only its TLS connections know certificates.
"""
