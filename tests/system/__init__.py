"""Real proxies under real load, each test in a network, a /dev/shm and a directory of its own."""
