"""What a user of the library imports."""
