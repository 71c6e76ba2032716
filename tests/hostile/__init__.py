"""Tenants kept apart, and input that means no good, over HTTP."""
