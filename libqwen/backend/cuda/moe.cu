// route() and run_experts(). Rows are sorted by expert without a word from the host: lists have room for every row, and a grid has
// blocks for every expert that could be active; those without rows end at once.
#include "backend/cuda/linear_kernels.h"
#include "backend/cuda/moe.h"
#include "base/error.h"

namespace qwen::cuda {
namespace {

constexpr float kNever = -INFINITY;

// A warp: one row.
__global__ void __launch_bounds__(kWarp) choose_experts(RouteArgs args) {
  begin_kernel();
  const Routing& to = args.to;
  const int lane = static_cast<int>(threadIdx.x), experts = static_cast<int>(to.experts);
  const int top_k = static_cast<int>(to.top_k);
  const int64_t row = blockIdx.x;
  const float* const logits = args.logits + row * experts;
  // NaN has no place in an order: it counts as the least likely, and makes all weights NaN.
  float* const values = shared_memory<float>();                           // [experts]
  uint32_t* const taken = reinterpret_cast<uint32_t*>(values + experts);  // [experts]
  float sum = 0, top = kNever;
  for (int e = lane; e < experts; e += kWarp) {
    const float logit = logits[e];
    if (logit != logit) sum = logit;
    values[e] = logit != logit ? kNever : logit;
    taken[e] = 0;
    top = fmaxf(top, values[e]);
  }
  top = warp_max(top);
  for (int e = lane; e < experts; e += kWarp) sum += expf(values[e] - top);
  sum = warp_sum(sum);
  for (int i = 0; i < top_k; ++i) {
    float best = kNever;
    int which = experts;  // of this lane's the first of the best; its own only are read and marked
    for (int e = lane; e < experts; e += kWarp) {
      if (taken[e] == 0 && (which == experts || values[e] > best)) {
        best = values[e];
        which = e;
      }
    }
    for (int apart = kWarp / 2; apart > 0; apart /= 2) {
      const float other = __shfl_xor_sync(~0u, best, apart);
      const int others = __shfl_xor_sync(~0u, which, apart);
      if (others < experts && (which == experts || other > best || (other == best && others < which))) {
        best = other;
        which = others;
      }
    }
    if (which % kWarp == lane) taken[which] = 1;
  }
  int32_t* const chosen = to.chosen + row * top_k;
  float* const weights = to.weights + row * top_k;
  int before = 0;
  float of_chosen = sum - sum;  // 0, or NaN
  for (int first = 0; first < experts; first += kWarp) {
    const int e = first + lane;
    const bool mine = e < experts && taken[e] != 0;
    const uint32_t all = __ballot_sync(~0u, mine);
    const float weight = mine ? expf(values[e] - top) : 0;
    for (uint32_t left = all; left != 0; left &= left - 1)
      of_chosen += __shfl_sync(~0u, weight, __ffs(static_cast<int>(left)) - 1);
    if (mine) {
      const int place = before + __popc(all & ((1u << lane) - 1));
      chosen[place] = e;
      weights[place] = weight;
    }
    before += __popc(all);
  }
  __syncwarp();
  for (int i = lane; i < top_k; i += kWarp) weights[i] /= args.normalise ? of_chosen : sum;
}

// A block: one expert's assignments.
__global__ void __launch_bounds__(kThreads) list_members(Routing to) {
  begin_kernel();
  const int lane = static_cast<int>(threadIdx.x % kWarp), warp = static_cast<int>(threadIdx.x / kWarp);
  const int64_t assignments = to.rows * to.top_k, expert = blockIdx.x;
  int32_t* const members = to.members + expert * to.rows;
  int32_t* const found = shared_memory<int32_t>();  // [2][warps], in turns
  int64_t count = 0;
  int turn = 0;
  for (int64_t first = 0; first < assignments; first += kThreads, turn = 1 - turn) {
    const int64_t a = first + threadIdx.x;
    const bool mine = a < assignments && to.chosen[a] == expert;
    const uint32_t of_warp = __ballot_sync(~0u, mine);
    if (lane == 0) found[turn * kWarps + warp] = __popc(of_warp);
    __syncthreads();
    int before = __popc(of_warp & ((1u << lane) - 1)), all = 0;
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) before += found[turn * kWarps + w];
      all += found[turn * kWarps + w];
    }
    if (mine) members[count + before] = static_cast<int32_t>(a);
    count += all;
  }
  if (threadIdx.x == 0) to.counts[expert] = static_cast<int32_t>(count);
}

// One warp: the experts that have something to do.
__global__ void __launch_bounds__(kWarp) list_active(Routing to, int64_t most) {
  begin_kernel();
  const int lane = static_cast<int>(threadIdx.x);
  int64_t count = 0;
  for (int64_t first = 0; first < to.experts; first += kWarp) {
    const int64_t expert = first + lane;
    const bool active = expert < to.experts && to.counts[expert] > 0;
    const uint32_t all = __ballot_sync(~0u, active);
    if (active) to.active[count + __popc(all & ((1u << lane) - 1))] = static_cast<int32_t>(expert);
    count += __popc(all);
  }
  for (int64_t i = count + lane; i < most; i += kWarp) to.active[i] = -1;
}

__global__ void __launch_bounds__(kThreads)
    combine_answers(Routing routing, const float* answers, int64_t width, float* out) {
  begin_kernel();
  const int64_t row = blockIdx.x, n = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  if (n >= width) return;  // no barrier in this kernel
  float sum = 0;
  for (int64_t i = 0; i < routing.top_k; ++i) {
    const int64_t assignment = row * routing.top_k + i;
    sum = fmaf(routing.weights[assignment], answers[assignment * width + n], sum);
  }
  out[row * width + n] = sum;
}

template <bool kGated>
void multiply(Stream& stream, const Work& work, const ExpertsArgs& args) {
  const int64_t experts = args.routing.most_active(), rows = args.routing.rows;
  const bool fast = args.aligned && aligned(work.x);
  if (args.x_element == Element::f32) {
    if (args.weight_element == Element::f32)
      return launch_fma<float, kGated, 8, true>(stream, work, fast && work.k % 4 == 0, experts);
    return launch_fma<uint16_t, kGated, 8, true>(stream, work, fast && work.k % 4 == 0, experts);
  }
  constexpr Rows16 kKind = kGated ? Rows16::gated : Rows16::whole;
  if (!fast || work.k % 8 != 0) return launch_few<kKind, 4, false, true>(stream, work, experts);
  if (rows <= 8) return launch_few<kKind, 1, true, true>(stream, work, experts);
  if (rows * args.routing.top_k <= 16 * args.routing.experts)
    return launch_few<kKind, 4, true, true>(stream, work, experts);
  launch_many<kGated, 2, 2, true>(stream, work, experts);
}

}  // namespace

void route(Stream& stream, const RouteArgs& args) {
  const Routing& to = args.to;
  if (to.rows == 0) return;
  if (to.experts > kMostExperts)
    fail(Status::unsupported, to.experts, " experts; on a GPU there may be at most ", kMostExperts);
  launch(stream, choose_experts, Grid(to.rows), kWarp, static_cast<size_t>(to.experts) * 2 * sizeof(float),
         args);
  launch(stream, list_members, Grid(to.experts), kThreads, 2 * kWarps * sizeof(int32_t), to);
  launch(stream, list_active, Grid(1), kWarp, 0, to, to.most_active());
}

void run_experts(Stream& stream, const ExpertsArgs& args) {
  const Routing& routing = args.routing;
  if (routing.rows == 0) return;
  const auto work = [&](const void* x, int64_t k, int64_t outputs) {
    Work made = {};
    made.x = x;
    made.rows = routing.rows;
    made.k = k;
    made.slice = slice_length(k);
    made.slices = static_cast<int>(pieces(k, made.slice));
    made.count = 1;
    made.projections[0].outputs = outputs;
    made.grouping.active = routing.active;
    made.grouping.counts = routing.counts;
    made.grouping.members = routing.members;
    made.grouping.capacity = routing.rows;
    return made;
  };
  Work gated = work(args.x, args.width, args.inner);
  gated.gated_out = args.hidden;
  gated.out_element = args.x_element;
  gated.grouping.of_x = static_cast<int>(routing.top_k);
  gated.grouping.weights = args.gates;
  gated.grouping.ups = args.ups;
  multiply<true>(stream, gated, args);
  Work down = work(args.hidden, args.inner, args.width);
  down.projections[0].out = args.answers;
  down.grouping.weights = args.downs;
  multiply<false>(stream, down, args);
  launch(stream, combine_answers, Grid(routing.rows, pieces(args.width, kThreads)), kThreads, 0, routing,
         args.answers, args.width, args.out);
}

}  // namespace qwen::cuda
