"""The app of the browser's benchmark."""
