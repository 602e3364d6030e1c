"""What no training undoes, for any differentiable function of parameters and input."""
