"""The command line client behind `ops/darkroom`, for any Darkroom server.

It knows the HTTP API and nothing else of the product, and needs `requests` alone.
"""
