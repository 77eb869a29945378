"""Epochs as processes: started, judged, opened, drained, ended, and adopted from an earlier agent."""
