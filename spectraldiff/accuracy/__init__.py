"""Accuracy of a map: metrics, area-adjusted estimates and matching of classes."""
