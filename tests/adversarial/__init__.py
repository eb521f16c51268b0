"""CSRs from other projects and programs, and generated hostile ones."""
