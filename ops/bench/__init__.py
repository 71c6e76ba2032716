"""What the product can do, measured: `python -m ops.bench` (see `ops/PERFORMANCE.md`)."""
