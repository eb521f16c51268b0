"""The zip that ships, run by Lambda's own runtime client; the keys' places; the template."""
