"""Pure decisions: what happened goes in, what to do comes out. Nothing here touches the machine or a clock."""
