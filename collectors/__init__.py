"""What measures: each module here is one collector, found by being here; a package is what several share.

Collectors report what they saw and never judge whether it is good. What could not be measured is a value too, with
the reason. See docs/collectors.md.
"""
