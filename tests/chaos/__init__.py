"""The chaos suite: breaks the running system under load, and counts what came of it."""
