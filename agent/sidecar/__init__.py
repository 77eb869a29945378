"""The built-in proxy, which runs in one asyncio worker.

It supports Envoy's command line, a part of its configuration, and its hot restart.
"""
