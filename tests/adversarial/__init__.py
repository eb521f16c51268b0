"""Requests that nobody here wrote: other projects', other programs', and made to do harm."""
