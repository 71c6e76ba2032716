"""The HTTP front end: validates, saves, answers with a pending task."""
