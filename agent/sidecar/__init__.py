"""The built-in proxy: Envoy's command line, a part of its configuration, and its handoff, in one asyncio worker."""
