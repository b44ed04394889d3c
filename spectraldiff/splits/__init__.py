"""Which labelled pixels train and which test."""
