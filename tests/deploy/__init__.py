"""The Lambda zip with AWS's runtime client, the key stores, and the template."""
