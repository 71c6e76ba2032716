"""What front end and workers stand on."""
