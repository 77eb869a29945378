"""A control plane for the tests: xDS over gRPC, with faults that a test turns on and off while it runs."""
