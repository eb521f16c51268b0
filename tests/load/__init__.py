"""Full load of all kinds against the real server, and faults in the midst of it.

Other faults stand elsewhere: of the function and of clients in tests/gateway/test_failure_modes.py; a record that
cannot be written, with the core alone, in tests/test_authority.py and tests/test_sign_batch.py; KMS in trouble and
time-outs on Lambda in tests/deploy. docs/reference/failure-modes.md has what the user sees of each.
"""
