"""What is in a bundle: facts read from it, as tables for the terminal and as a page."""
