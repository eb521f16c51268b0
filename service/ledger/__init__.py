"""The ledger: in a SQLite file, or in a DynamoDB table."""
