"""Any server that takes listening descriptors: a steered group of sockets is its gate, a real request its test."""
