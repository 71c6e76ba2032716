"""What runs, demonstrates, checks and measures Darkroom; nothing of the product imports it."""
