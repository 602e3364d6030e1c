"""Measuring: from f(params, x) to its Jacobian, its spectrum, and ensembles of them."""
