"""A demonstration: a proxy under the agent with clients, rotations and faults, then cleanup."""
