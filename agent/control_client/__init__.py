"""What the quick commands need, which a kubelet executes: nothing here imports what it can do without."""
