"""The core: certification requests in, certificates out.

Pure values and functions on `cryptography`'s X.509. No clock, environment, network, logging or
framework is used in here, and nothing else of ours is imported (import-linter holds that).
"""
