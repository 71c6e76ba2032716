"""The same job on what users know: how Darkroom compares with other queues and gateways."""
