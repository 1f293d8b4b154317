#include "backend/cuda/dialect.h"
#include "backend/cuda/embed.h"

namespace qwen::cuda {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ void widen(const void* table, Element element, int64_t from, int64_t width,
                                      float* out) {
  for (int64_t i = threadIdx.x; i < width; i += kThreads)
    out[i] = element == Element::f32 ? static_cast<const float*>(table)[from + i]
                                     : to_float(static_cast<const uint16_t*>(table)[from + i]);
}

__global__ void __launch_bounds__(kThreads) copy_entries(EmbedArgs args) {
  const int64_t row = blockIdx.x;
  widen(args.table, args.element, args.ids[row] * args.width, args.width, args.out + row * args.width);
}

__global__ void __launch_bounds__(kThreads) copy_sharded_entries(ShardedEmbedArgs args) {
  const int64_t row = blockIdx.x, id = args.ids[row];
  widen(args.shards[id / args.shard_entries], args.element, id % args.shard_entries * args.width, args.width,
        args.out + row * args.width);
}

__global__ void __launch_bounds__(kThreads) copy_ids(TakeIdsArgs args) {
  const int64_t row = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (row < args.rows && args.from[row] >= 0) args.ids[row] = args.sampled[args.from[row]];
}

}  // namespace

void take_ids(Stream& stream, const TakeIdsArgs& args) {
  launch(stream, copy_ids, Grid((args.rows + kThreads - 1) / kThreads), kThreads, 0, args);
}

void embed(Stream& stream, const EmbedArgs& args) {
  launch(stream, copy_entries, Grid(args.rows), kThreads, 0, args);
}

void embed(Stream& stream, const ShardedEmbedArgs& args) {
  launch(stream, copy_sharded_entries, Grid(args.rows), kThreads, 0, args);
}

}  // namespace qwen::cuda
