"""CSRs from other projects and programs, and generated malicious ones."""
