"""HTTP/1.1 on asyncio streams by h11: a small server and a small client, over TCP or a Unix socket."""
