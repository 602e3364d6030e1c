"""Programs that make pages and pictures, each named on what it makes."""
