"""ExpansionNet v2: captions from a Swin with static and dynamic expansion."""
