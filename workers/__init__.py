"""The Celery workers: everything that talks to an image provider."""
