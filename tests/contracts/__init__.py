"""What every provider adapter must do, and how each does it."""
