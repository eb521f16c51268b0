"""EST (RFC 7030): by events, over HTTP, and with devices that others wrote."""
