"""What running models tells: activations, gradients, sensitivities, times, errors."""
