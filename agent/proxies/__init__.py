"""The kinds of proxy behind one interface."""
