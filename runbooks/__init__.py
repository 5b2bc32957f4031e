"""Executable runbooks: one page an alert."""
