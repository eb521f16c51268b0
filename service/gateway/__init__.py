"""A stand-in for API Gateway (REST API) on a laptop or a small server.

All that it does it reads from the contract; of certificates it knows nothing.
"""
