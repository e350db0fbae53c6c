"""Models: what turns batches into rows, and the only users of transformers' models, open_clip and timm."""
