"""A demonstration: a proxy under the agent, with clients, rotations and faults, all of it gone afterwards."""
