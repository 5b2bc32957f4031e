"""Measurements of Kafka, ClickHouse and the pipelines; they measure and never judge."""
