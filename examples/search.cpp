// Search the lines of standard input by what they mean: embeddings find the nearest three, a reranker judges those.
//
//     c++ -std=c++17 search.cpp $(pkg-config --cflags --libs qwen) -o search
//     ./search path/to/Qwen3-Embedding-0.6B path/to/Qwen3-Reranker-0.6B "What is the capital of China?" < lines.txt
//
// Any other model computes too, but it was not trained to search: the order then means nothing.
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <numeric>
#include <qwen.hpp>
#include <string>
#include <vector>

// The places of the highest numbers, highest first.
std::vector<size_t> best(const std::vector<float>& numbers, size_t most) {
  std::vector<size_t> places(numbers.size());
  std::iota(places.begin(), places.end(), size_t{0});
  std::stable_sort(places.begin(), places.end(), [&](size_t a, size_t b) { return numbers[a] > numbers[b]; });
  places.resize(std::min(most, places.size()));
  return places;
}

std::vector<float> cosines(qwen::Engine& engine, const std::string& query,
                           const std::vector<std::string>& texts) {
  const qwen::Tensors queries = engine.embed(qwen::Inputs({query}).instruction());
  const qwen::Tensors documents = engine.embed(qwen::Inputs(texts));  // worth keeping where there are many
  const qwen::Tensor asked = queries.at(0, "embeddings"), all = documents.at(0, "embeddings");
  std::vector<float> found;
  for (size_t i = 0; i < texts.size(); ++i)  // rows have length 1
    found.push_back(std::inner_product(all.row(i).begin(), all.row(i).end(), asked.row(0).begin(), 0.0f));
  return found;
}

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: " << argv[0] << " EMBEDDING_MODEL RERANKER QUERY < TEXTS\n";
    return 2;
  }
  const std::string query = argv[3];
  std::vector<std::string> texts;
  for (std::string line; std::getline(std::cin, line);)
    if (!line.empty()) texts.push_back(line);
  try {
    qwen::Engine embedder(argv[1]), reranker(argv[2]);
    const std::vector<float> near = cosines(embedder, query, texts);
    std::vector<std::string> nearest;
    for (const size_t place : best(near, 3)) {
      nearest.push_back(texts[place]);
      std::printf("cosine %+.3f  %s\n", double{near[place]}, texts[place].c_str());
    }
    const qwen::Tensors judged = reranker.rerank(query, qwen::Inputs(nearest));
    const qwen::Span<const float> scores = judged.at(0, "scores").values();
    for (const size_t place : best({scores.begin(), scores.end()}, 3))
      std::printf("score  %.4f  %s\n", double{scores[place]}, nearest[place].c_str());
  } catch (const qwen::Error& error) {
    std::cerr << error.status_name() << ": " << error.what() << "\n";
    return 1;
  }
}
