"""Mean-field theory: how variances, correlations and gradients go through layers."""
