"""A control plane for the tests: xDS over gRPC, with faults that tests enable and disable while it runs."""
