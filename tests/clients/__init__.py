"""Clients that generators make of the contract, used for real."""
