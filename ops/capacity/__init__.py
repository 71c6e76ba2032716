"""How many machines so many generations a minute need, reckoned from what was measured."""
