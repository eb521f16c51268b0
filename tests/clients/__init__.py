"""Clients that generators create from the contract, tested with a real server."""
