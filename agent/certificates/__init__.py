"""Certificate files: read, judged and chosen. Nothing here touches the machine or a clock."""
