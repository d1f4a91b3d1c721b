"""Running the model: activations at layers, sampled as rows of a regression."""
