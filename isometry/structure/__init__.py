"""What a network is made of, read off its jaxpr."""

from isometry.structure._anatomy import Anatomy as Anatomy
from isometry.structure._anatomy import anatomy as anatomy
from isometry.structure._records import Attention as Attention
from isometry.structure._records import Branch as Branch
from isometry.structure._records import WeightLayer as WeightLayer
