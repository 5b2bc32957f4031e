"""The demonstration: real events through the whole pipeline, broken ones among them, and the proof at the end."""
