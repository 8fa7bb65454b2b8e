"""Who may ask, and how connections are encrypted."""
