"""Where measurement and theory meet: a `Spectrum` of many draws beside a `Law`."""

from isometry.comparison._compare import compare as compare
from isometry.comparison._comparison import Band as Band
from isometry.comparison._comparison import Comparison as Comparison
