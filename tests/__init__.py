"""The tests: real processes and real sockets."""
