"""What the Kafka collectors share: requests to many brokers at once, offset windows, and pure judgements of lag."""
