"""ACME clients of other projects against a real server with TLS.

clients             commands and libraries, and how to run each
web_servers         web servers that are clients
proofs              clients that prove their names
enroll.mjs, enroll.rb, enroll.go
                    programs around clients that are libraries
"""
