"""What is loaded, and how it fits into the device's memory."""
