"""A training: the loops, calibration, the run folder and the session that drives them."""
