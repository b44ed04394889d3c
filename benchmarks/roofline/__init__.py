"""Roofline: the time of a map compared with the limits of the machine."""
