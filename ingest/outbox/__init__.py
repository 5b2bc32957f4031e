"""Database first: a row is committed to the SQL store with an outbox row, and a relay emits it to Kafka exactly once."""
