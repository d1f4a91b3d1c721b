"""Zeros in patterns that kernels skip: tiles of a layer's weight, or 2 of every 4.

Nothing is removed from the graph here, and no shape changes. Channels are put in another order
first, which leaves the function as it is, so that weights which matter little share tiles [1]_ or
weights which matter much don't share fours [2]_. What stays is repaired by least squares [3]_.

References
----------
.. [1] Y. Li, Q. Ai, F. Ino, "A One-Shot Reparameterization Method for Reducing the Loss of Tile
       Pruning on DNNs" (TileTrans), 2022, arXiv:2207.14545.
.. [2] J. Pool, C. Yu, "Channel Permutations for N:M Sparsity", NeurIPS 2021.
.. [3] E. Frantar, D. Alistarh, "Optimal Brain Compression: A Framework for Accurate Post-Training
       Quantization and Pruning", NeurIPS 2022.
"""
