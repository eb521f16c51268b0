"""What an attacker tries: tables of it on the real path, with the right answer, and what looks alike and is granted."""
