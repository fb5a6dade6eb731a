"""What of a pair is where on the device, and how much memory that takes."""
