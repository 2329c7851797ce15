"""The choice: which channels of each convolution stay, and its kernel refitted to what the full network does.

From the ground up: `draws` and `sampling` (rows of a layer), `gram` (their sums), `lasso` and `regression`
(what is solved on them), `fit` (one layer); `frontier` and `frontier_hooks` (where the network stands), with
`shortcut`, `recalibrate` and `workers` (threads, a mini-batch each); `rows` (the sums of any layer), and
`choose` (all layers). `prunable` lists the layers and their ratios, `masks` keeps what was chosen.
"""
