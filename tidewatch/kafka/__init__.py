"""Kafka: confluent-kafka on the data path, kafka-python for administration, each behind our own types and errors."""
