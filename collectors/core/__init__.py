"""What runs collectors and publishes their readings."""
