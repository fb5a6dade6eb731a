"""What of a pair is where on the device, and how much memory that takes.

parts        the sizes of a pair, before it is loaded
plan         the fastest layout for them; `needs` is the arithmetic, `explanation` the words
residency    the layouts, and moving parts between host and device
"""
