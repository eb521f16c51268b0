"""What ships is looked through: licences, the bill of materials, scanners that can fail, and secrets."""
