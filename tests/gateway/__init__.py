"""The local gateway, by one table of requests and expected answers, against three targets."""
