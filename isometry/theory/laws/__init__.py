"""Laws of singular values: free products of weights and slopes. See README.md."""
