"""What people take away: a model as one file of ONNX or OpenVINO, a folder of sentence-transformers, a file of words.

Every export is compared with the embeddings of PyTorch before it takes its place.
"""
