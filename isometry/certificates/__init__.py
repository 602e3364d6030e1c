"""What no training undoes, for any differentiable function of parameters and input."""

from isometry.certificates._certificate import Certificate as Certificate
from isometry.certificates._certify import certify as certify
from isometry.certificates._findings import Finding as Finding
from isometry.certificates._layers import LayerLock as LayerLock
from isometry.certificates._observing import Units as Units
