"""The web form, driven in a real browser."""
