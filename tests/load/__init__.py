"""Full load of all request types on the real server, without and with failures.

Other tests of failures: of the function and of clients in tests/gateway/test_failure_modes.py; of the audit log, without
a server, in tests/test_authority.py and tests/test_sign_batch.py; of KMS and Lambda time-outs in tests/deploy.
docs/reference/failure-modes.md lists what users see.
"""
