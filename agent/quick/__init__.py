"""Commands that start in no time, since a kubelet executes them: nothing here imports what it can do without."""
