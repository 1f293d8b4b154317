"""Search a few texts by what they mean: embeddings find the nearest, a reranker judges those.

python examples/python/13_search.py [EMBEDDING_MODEL RERANKER]

With Qwen/Qwen3-Embedding-0.6B and Qwen/Qwen3-Reranker-0.6B, for example. Without them the demo model stands in for both: it was
trained to add, not to search, so the way is the same and the order means nothing.
"""

import sys

from qwen_ffi import Embedder, Reranker, demo_model_path

TEXTS = [
    "The capital of China is Beijing.",
    "Gravity is a force that attracts two bodies towards each other.",
    "Rice is cooked in water until it has taken it up.",
    "A binary search halves the range that is left at every step.",
    "The Yangtze is the longest river in Asia.",
]
QUERY = "What is the capital of China?"

stand_in = len(sys.argv) < 3
embedding_model, reranker_model = [demo_model_path()] * 2 if stand_in else sys.argv[1:3]
if stand_in:
    print("(the demo model stands in: the order means nothing)")

with Embedder(embedding_model) as embedder:
    texts = embedder.embed(TEXTS)  # float32 [5, hidden_size], rows of length 1: once, and kept with the texts
    (query,) = embedder.embed_queries([QUERY])
    again = embedder.embed(TEXTS[1:2])[0] @ texts[1]
cosines = texts @ query
nearest = cosines.argsort()[::-1][:3].tolist()
print(QUERY)
for index in nearest:
    print(f"  cosine {cosines[index]:+.3f}  {TEXTS[index]}")

with Reranker(reranker_model) as reranker:
    scores = reranker.score(QUERY, [TEXTS[index] for index in nearest])
for place in scores.argsort()[::-1].tolist():
    print(f"  score  {scores[place]:.4f}  {TEXTS[nearest[place]]}")
print(f"a text and itself: cosine {again:.3f}")
