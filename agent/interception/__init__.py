"""Sends the connections of a pod or a machine through its proxy, by rules of the kernel's packet filter."""
