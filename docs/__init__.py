"""Programs that make pages and pictures of the documentation, each named on what it makes."""
