"""How a program without kinks is made of one with kinks."""
