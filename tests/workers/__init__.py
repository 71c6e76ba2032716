"""The workers, with plain objects for providers and a real store."""
