"""The Lambda zip under Lambda's own runtime client, the key stores, and the template."""
