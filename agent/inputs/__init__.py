"""From files on disk to a revision: watched, read, judged, held open."""
