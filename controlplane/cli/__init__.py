"""The `tidewatch` command: one module a group."""
