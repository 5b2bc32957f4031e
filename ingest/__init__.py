"""Events in: the gateway, the loader, the ledger that proves them, the outbox, and what follows from a spec."""
