"""What the front end and the workers both stand on."""
