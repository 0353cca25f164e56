"""The app of the browser benchmark."""
