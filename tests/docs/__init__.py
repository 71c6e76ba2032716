"""The documents are true: their commands run, what they name exists, their examples work."""
