"""Accuracy of a map: metrics, area-adjusted estimates, matching of classes."""
