"""EST (RFC 7030): with Lambda events, over TLS, with other EST clients, and behind proxies."""
