"""What differs from proxy to proxy."""
