"""Caption metrics: the tokeniser of caption evaluation, BLEU, ROUGE-L, CIDEr, CIDEr-D, METEOR and SPICE."""
