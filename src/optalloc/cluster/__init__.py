"""Clusters: devices, links and how they are joined."""
