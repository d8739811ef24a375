"""The HTTP doors: klein routes that decode, ask once, and encode."""
