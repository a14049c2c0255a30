"""What an audit reads: training and held-out files as documents, their passages, and canaries planted beforehand."""
