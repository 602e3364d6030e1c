from stub_anatomy import Anatomy, anatomy
