"""Where training begins, and by what it learns beyond cross entropy: samples, rewards, word counts."""
