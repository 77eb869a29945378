"""The other end of the handoff: what makes any asyncio server an epoch that Envoy's hot restart can replace."""
