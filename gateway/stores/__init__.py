"""Where records and runs are kept."""
