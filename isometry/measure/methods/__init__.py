"""Ways to find the spectrum of a Jacobian: a method is one object, in one file."""

from isometry.measure.methods._method import Footprint as Footprint
from isometry.measure.methods._method import Method as Method
from isometry.measure.methods._registry import METHODS as METHODS
from isometry.measure.methods._registry import named as named
from isometry.measure.methods._registry import register as register
from isometry.measure.methods._registry import require_key as require_key
from isometry.measure.methods.dense import Dense as Dense
from isometry.measure.methods.lanczos import Lanczos as Lanczos
from isometry.measure.methods.product import Product as Product
