"""HTTP/1.1 on asyncio streams with h11: a small server and client, over TCP or Unix sockets."""
