"""The proof, for any window of broker append time, that nothing was lost or doubled, or what it can't show any more."""
