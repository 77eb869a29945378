"""Decides: events go in, effects come out. Nothing here touches the machine or a clock."""
