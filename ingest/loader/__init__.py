"""Kafka → ClickHouse, exactly once. The algorithm, and the rules it stands on, are in docs/loader.md.

blocks, intents, effects    what is passed around
course, recovery            the algorithm: pure, no input or output; tests/unit/test_loader_model.py tries to break it
lane                        drives a course against a real broker and a real ClickHouse
service                     the lanes of one process, their HTTP port, their start and their end
"""
