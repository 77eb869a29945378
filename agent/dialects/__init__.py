"""How each kind of proxy is launched, judged ready and drained."""
