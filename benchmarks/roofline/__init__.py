"""How near a map comes to what the machine could do at most."""
