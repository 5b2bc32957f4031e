"""The development ClickHouse: the real engine (chDB) behind ClickHouse's HTTP interface.

For development and tests only. The engine, its SQL, its formats, its deduplication and its errors are ClickHouse's own;
the front only moves bytes between HTTP and the engine. What it lacks next to a server is in docs/clickhouse-front.md.
"""
