"""Measuring: from f(params, x) to its Jacobian, its spectrum, and ensembles of them.

The words of this folder:

- A span is the part of f between two named points, or f from end to end (`_spans`). A
  target is a span at fixed shapes and dtypes, which can be measured (`_target`).
- A seed is one draw of the parameters, and an input one example x. An ensemble is all
  pairs of seed and input, measured in chunks that fit in memory (`_ensemble`).
- A direction is one tangent or cotangent vector. It takes one forward or reverse pass,
  and gives one column or row of the Jacobian.
- A bump is an array of zeros that is added to a value inside f: derivatives with
  respect to the bump are those with respect to the value (`_passes`).
- A spectrum holds singular values, or the nodes of a quadrature: numbers that estimate
  means over the singular values. Each quadrature comes from a probe, a random vector
  (`methods.lanczos`).
"""
