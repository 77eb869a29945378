"""The client side of the quick commands that a kubelet runs, with minimal imports."""
