"""What the product can do, measured: each file is a command, `python -m ops.bench.<name>`."""
