"""The flags, a file each. A flag takes part as soon as its file is imported here."""
