"""HTTP → Kafka: validates events against their spec and answers after the broker has acknowledged them."""
