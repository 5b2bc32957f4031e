"""Everything in ClickHouse and Kafka that follows from a pipeline spec: tables, views, topics, and the extraction."""
