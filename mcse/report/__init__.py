"""Results as people read them: terminal, Markdown, one HTML file."""
