// A row's logits are cut into pieces of 4,096, each a block's, so that one row alone keeps many blocks busy; what is left of it after
// that is one block's. No row is sorted: where a rank or a share of the likelihood decides, a histogram over the leading bits of all
// logits says from which of them on tokens can matter, these few are listed, and the border among them is found digit by digit.
//
// Tokens are compared by one number, a place: the logit in the order of its bits, then the id, the lower the likelier. Likelihoods
// are relative to the likeliest token's, rounded to fixed point: what order they are added in makes no difference.
#include "backend/cuda/dialect.h"
#include "backend/cuda/sample.h"

namespace qwen::cuda {
namespace {

using Mass = unsigned long long;
using Place = unsigned long long;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kBins = static_cast<int>(kSampleBins);
constexpr int kOfThread = kBins / kThreads;
constexpr int kIdBits = 22;
static_assert(kMostVocabulary == int64_t{1} << kIdBits);
constexpr uint32_t kLowestId = (1u << kIdBits) - 1;  // a place holds kLowestId - id
constexpr uint32_t kNever = 0x007fffff;              // the key of -infinity
constexpr uint32_t kInfinite = 0xff800000;           // of +infinity
constexpr Place kNotFinite = ~Place{0};              // no token's place

// Digits of a place, the first one first: 11 + 11 + 10 bits of the logit, 11 + 11 of the id.
struct Digit {
  int shift, bits;
};
constexpr int kDigits = 5, kFirstOfId = 3;
__device__ __forceinline__ Digit digit(int number) {
  constexpr int kShifts[kDigits] = {43, 32, 22, 11, 0};
  return {kShifts[number], number == 2 ? 10 : 11};
}

// Larger logits have larger keys. -0 is +0.
__device__ __forceinline__ uint32_t key_of(float logit) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float logit_of(Place place) {
  const auto key = static_cast<uint32_t>(place >> kIdBits);
  return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}
__device__ __forceinline__ Place place_of(float logit, int64_t id) {
  return Place{key_of(logit)} << kIdBits | (kLowestId - static_cast<uint32_t>(id));
}
__device__ __forceinline__ int32_t id_of(Place place) {
  return static_cast<int32_t>(kLowestId - (static_cast<uint32_t>(place) & kLowestId));
}
__device__ __forceinline__ uint32_t key_of_place(Place place) {
  return static_cast<uint32_t>(place >> kIdBits);
}
__device__ __forceinline__ int bin_of(float logit) {
  return static_cast<int>(key_of(logit) >> 21);
}

// Which of the ways to choose a row's arguments ask for.
__device__ __forceinline__ bool is_drawn(const SampleRow& row) {
  return row.forced < 0 && row.temperature > 0;
}
__device__ __forceinline__ bool is_listed(const SampleRow& row) {
  return is_drawn(row) && (row.top_k > 0 || row.top_p < 1);
}

// Masses that threads add to. In halves, because a GPU adds 32 bits in shared memory by itself, 64 by trying again and again.
struct Histogram {
  unsigned low[kBins], high[kBins];
  __device__ __forceinline__ void add(int bin, Mass mass) {
    const auto own = static_cast<unsigned>(mass);
    const unsigned before = atomicAdd(low + bin, own);
    const unsigned carry = before + own < before ? 1 : 0;
    const unsigned rest = static_cast<unsigned>(mass >> 32) + carry;
    if (rest != 0) atomicAdd(high + bin, rest);
  }
  __device__ __forceinline__ Mass operator[](int bin) const { return Mass{high[bin]} << 32 | low[bin]; }
};

// A block's shared memory.
struct Shared {
  Histogram histogram;
  Place places[kThreads];
  Mass masses[kThreads];
  Mass of_warps[kWarps];
  double sums[kWarps];
  Mass found_above;
  int found;
  Place place;
};

template <class T, class Combine>
__device__ __forceinline__ T block_reduce(T value, T* of_warps, Combine combine) {
  for (int apart = kWarp / 2; apart > 0; apart /= 2)
    value = combine(value, __shfl_xor_sync(~0u, value, apart));
  if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = value;
  __syncthreads();
  T all = of_warps[0];
  for (int warp = 1; warp < kWarps; ++warp) all = combine(all, of_warps[warp]);
  __syncthreads();
  return all;
}
__device__ __forceinline__ Place block_largest(Place value, Shared& shared) {
  return block_reduce(value, shared.of_warps, [](Place a, Place b) { return a > b ? a : b; });
}
__device__ __forceinline__ Mass block_total(Mass value, Shared& shared) {
  return block_reduce(value, shared.of_warps, [](Mass a, Mass b) { return a + b; });
}

// The sum of what the threads before this one bring.
__device__ __forceinline__ Mass mass_before(Mass own, Shared& shared) {
  const int lane = static_cast<int>(threadIdx.x % kWarp), warp = static_cast<int>(threadIdx.x / kWarp);
  Mass sum = own;
  for (int apart = 1; apart < kWarp; apart *= 2) {
    const Mass earlier = __shfl_up_sync(~0u, sum, static_cast<unsigned>(apart));
    if (lane >= apart) sum += earlier;
  }
  if (lane == kWarp - 1) shared.of_warps[warp] = sum;
  __syncthreads();
  Mass before = sum - own;
  for (int w = 0; w < warp; ++w) before += shared.of_warps[w];
  __syncthreads();
  return before;
}

// The bin that the mass `wanted`, at least 1 and at most all there is, reaches into, counted from the last bin down.
struct Found {
  int bin;
  Mass above;
};
template <class Bins>
__device__ __forceinline__ Found find_bin(const Bins& histogram, Mass wanted, Shared& shared) {
  const int last = kBins - 1 - static_cast<int>(threadIdx.x) * kOfThread;
  Mass own = 0;
  for (int i = 0; i < kOfThread; ++i) own += histogram[last - i];
  Mass above = mass_before(own, shared);
  if (above < wanted && wanted <= above + own) {  // one thread
    int bin = last;
    while (above + histogram[bin] < wanted) above += histogram[bin--];
    shared.found = bin;
    shared.found_above = above;
  }
  __syncthreads();
  const Found found{shared.found, shared.found_above};
  __syncthreads();
  return found;
}
__device__ __forceinline__ Mass total_of(const Mass* histogram, Shared& shared) {
  Mass own = 0;
  for (int i = 0; i < kOfThread; ++i) own += histogram[threadIdx.x + i * kThreads];
  return block_total(own, shared);
}
__device__ __forceinline__ void clear_histogram(Shared& shared) {
  for (int i = 0; i < kOfThread; ++i) {
    shared.histogram.low[threadIdx.x + i * kThreads] = 0;
    shared.histogram.high[threadIdx.x + i * kThreads] = 0;
  }
  __syncthreads();
}

// How likely a token is, where the likeliest is `one`: as much as a vocabulary of such tokens has room for in 63 bits.
struct Likelihood {
  double top, temperature, least, one;
  __device__ __forceinline__ Likelihood(const SampleRow& row, float top, int64_t vocab_size)
      : top(top), temperature(row.temperature), least(row.min_p) {
    int bits = 52;
    while (int64_t{1} << (63 - bits) < vocab_size) --bits;
    one = static_cast<double>(int64_t{1} << bits);
  }
  __device__ __forceinline__ double weight(float logit) const { return exp((logit - top) / temperature); }
  __device__ __forceinline__ Mass fixed(double weight) const {
    return weight > 0 ? static_cast<Mass>(weight * one + 0.5) : 0;
  }
  __device__ __forceinline__ Mass operator()(float logit) const { return fixed(weight(logit)); }
  __device__ __forceinline__ Mass if_likely(float logit) const {  // 0 below min_p
    const double own = weight(logit);
    return own < least ? 0 : fixed(own);
  }
};

// A share of a mass: at least 1, at most all.
__device__ __forceinline__ Mass share_of(Mass total, double share) {
  const double wanted = ceil(share * static_cast<double>(total));
  return wanted < 1 ? 1 : wanted < static_cast<double>(total) ? static_cast<Mass>(wanted) : total;
}
// What must be passed for the token at u.
__device__ __forceinline__ Mass drawn_of(Mass total, double u) {
  const auto target = static_cast<Mass>(u * static_cast<double>(total));
  return target < total ? target + 1 : total;
}

// The likeliest token's place over all pieces, or kNotFinite.
__device__ __forceinline__ Place best_of(const SampleKernelArgs& args, int64_t row, Shared& shared) {
  const int64_t pieces = sample_pieces(args.vocab_size);
  const SamplePiece* const of_row = args.scratch.pieces + row * pieces;
  Place best = 0;
  for (int64_t piece = threadIdx.x; piece < pieces; piece += kThreads) {
    const Place own = of_row[piece].finite ? of_row[piece].best : kNotFinite;
    if (own > best) best = own;
  }
  return block_largest(best, shared);
}

// The edits of a row that are about ids from `id` on.
__device__ __forceinline__ int32_t first_edit(const SampleKernelArgs& args, const SampleRow& row,
                                              int64_t id) {
  int32_t low = row.first_edit, high = row.first_edit + row.edits;
  while (low < high) {
    const int32_t middle = (low + high) / 2;
    if (args.edits[middle].id < id)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

__device__ __forceinline__ float edited(float logit, const LogitEdit& edit) {
  if (edit.bias != 0) logit += edit.bias;
  // Not to become one with the subtraction: the host rounds between them.
  if (edit.repetition != 1) logit = logit < 0 ? __fmul_rn(logit, edit.repetition) : logit / edit.repetition;
  return logit - edit.subtract;
}

struct Piece {
  float* logits;       // of the whole row
  int64_t first, end;  // ids
};
__device__ __forceinline__ Piece piece_of(const SampleKernelArgs& args, const SampleRow& row) {
  const int64_t first = int64_t{blockIdx.x} * kSamplePiece;
  return {args.logits + row.row * args.vocab_size, first, min(first + kSamplePiece, args.vocab_size)};
}

// A block: one piece of one row. What it is before the edits, the edits, and its likeliest token behind them.
__global__ void __launch_bounds__(kThreads) scan(SampleKernelArgs args) {
  begin_kernel();
  Shared& shared = *shared_memory<Shared>();
  const SampleRow row = args.rows[blockIdx.y];
  const Piece piece = piece_of(args, row);
  const auto largest = [&] {
    Place best = 0;
    for (int64_t id = piece.first + threadIdx.x; id < piece.end; id += kThreads) {
      const Place place = place_of(piece.logits[id], id);
      if (place > best) best = place;
    }
    return best;
  };
  bool finite = true;
  for (int64_t id = piece.first + threadIdx.x; id < piece.end; id += kThreads)
    finite = finite && (__float_as_uint(piece.logits[id]) & 0x7f800000u) != 0x7f800000u;
  Place best = block_largest(finite ? largest() : kNotFinite, shared);
  finite = best != kNotFinite;
  const float own_top = logit_of(best);
  double sum = 0;
  if (row.logprobs) {
    if (finite)
      for (int64_t id = piece.first + threadIdx.x; id < piece.end; id += kThreads)
        sum += exp(piece.logits[id] - static_cast<double>(own_top));
    sum = block_reduce(sum, shared.sums, [](double a, double b) { return a + b; });
  }
  const int32_t from = first_edit(args, row, piece.first), to = first_edit(args, row, piece.end);
  if (from < to) {
    for (int32_t i = from + static_cast<int32_t>(threadIdx.x); i < to; i += kThreads) {
      const int32_t id = args.edits[i].id;
      if (i > from && args.edits[i - 1].id == id) continue;
      float logit = piece.logits[id];
      args.scratch.originals[i] = logit;
      for (int32_t e = i; e < to && args.edits[e].id == id; ++e) logit = edited(logit, args.edits[e]);
      piece.logits[id] = logit;
    }
    __syncthreads();
    best = block_largest(largest(), shared);
  }
  if (threadIdx.x == 0)
    args.scratch.pieces[blockIdx.y * sample_pieces(args.vocab_size) + blockIdx.x] = {
        .own_sum = sum, .own_top = own_top, .finite = finite, .best = best, .mass = 0};
}

__device__ __forceinline__ void flush(const Shared& shared, Mass* to) {
  __syncthreads();
  for (int i = 0; i < kOfThread; ++i) {
    const int bin = static_cast<int>(threadIdx.x) + i * kThreads;
    const Mass mass = shared.histogram[bin];
    if (mass != 0) atomicAdd(to + bin, mass);
  }
}

// A block: one piece of one row, before its edits. How many tokens each bin has.
__global__ void __launch_bounds__(kThreads) count_own(SampleKernelArgs args) {
  begin_kernel();
  const SampleRow row = args.rows[blockIdx.y];
  if (row.top_logprobs == 0) return;
  Shared& shared = *shared_memory<Shared>();
  const Piece piece = piece_of(args, row);
  clear_histogram(shared);
  for (int64_t id = piece.first + threadIdx.x; id < piece.end; id += kThreads)
    shared.histogram.add(bin_of(piece.logits[id]), 1);
  flush(shared, args.scratch.histogram + (args.count + blockIdx.y) * kSampleBins);
}

// A block: one piece of one row. What its bins have: tokens where top_k will be asked, else likelihood.
__global__ void __launch_bounds__(kThreads) weigh(SampleKernelArgs args) {
  begin_kernel();
  const SampleRow row = args.rows[blockIdx.y];
  if (!is_drawn(row)) return;
  Shared& shared = *shared_memory<Shared>();
  const Place best = best_of(args, blockIdx.y, shared);
  if (best == kNotFinite || key_of_place(best) <= kNever) return;
  const Piece piece = piece_of(args, row);
  const Likelihood likelihood(row, logit_of(best), args.vocab_size);
  if (is_listed(row)) {
    clear_histogram(shared);
    for (int64_t id = piece.first + threadIdx.x; id < piece.end; id += kThreads) {
      const float logit = piece.logits[id];
      if (key_of(logit) <= kNever) continue;
      const Mass mass = row.top_k > 0 ? 1 : likelihood(logit);
      if (mass > 0) shared.histogram.add(bin_of(logit), mass);
    }
    flush(shared, args.scratch.histogram + blockIdx.y * kSampleBins);
  } else {
    Mass own = 0;
    for (int64_t id = piece.first + threadIdx.x; id < piece.end; id += kThreads)
      own += likelihood.if_likely(piece.logits[id]);
    own = block_total(own, shared);
    if (threadIdx.x == 0)
      args.scratch.pieces[blockIdx.y * sample_pieces(args.vocab_size) + blockIdx.x].mass = own;
  }
}

// The bin that holds the border, by the histogram of all pieces, and how much of the border's mass the bins above it have.
struct Border {
  Found found;
  Mass wanted;
};
__device__ __forceinline__ Border border_of(const Mass* histogram, const SampleRow& row, bool own,
                                            Shared& shared) {
  const Mass total = total_of(histogram, shared);
  const Mass rank = static_cast<Mass>(own ? row.top_logprobs : row.top_k);
  const Mass wanted = rank == 0 ? share_of(total, row.top_p) : rank < total ? rank : total;
  return {total == 0 ? Found{0, 0} : find_bin(histogram, wanted, shared), wanted};
}

// A block: one piece of one row. Lists the tokens of the border's bin and those above, in any order.
// Own: those of the logits before the edits.
template <bool Own>
__global__ void __launch_bounds__(kThreads) collect(SampleKernelArgs args) {
  begin_kernel();
  const SampleRow row = args.rows[blockIdx.y];
  if (Own ? row.top_logprobs == 0 : !is_listed(row)) return;
  Shared& shared = *shared_memory<Shared>();
  const int64_t at = (Own ? args.count : 0) + blockIdx.y;
  const int least = border_of(args.scratch.histogram + at * kSampleBins, row, Own, shared).found.bin;
  const Piece piece = piece_of(args, row);
  int32_t* const list = args.scratch.lists + at * kSampleListed;
  const unsigned lane = threadIdx.x % kWarp;
  for (int64_t first = piece.first; first < piece.end; first += kThreads) {
    const int64_t id = first + threadIdx.x;
    const float logit = id < piece.end ? piece.logits[id] : 0.0f;
    const bool taken = id < piece.end && bin_of(logit) >= least && key_of(logit) > kNever;
    const unsigned all = __ballot_sync(~0u, taken);
    if (all == 0) continue;
    unsigned place = 0;
    if (lane == 0) place = atomicAdd(args.scratch.listed + at, static_cast<unsigned>(__popc(all)));
    place = __shfl_sync(~0u, place, 0) + static_cast<unsigned>(__popc(all & ((1u << lane) - 1)));
    if (taken && place < kSampleListed) list[place] = static_cast<int32_t>(id);
  }
}

// Tokens that have been listed; where there was no room for all of them, the whole row.
struct Listed {
  const float* logits;
  const int32_t* list;  // null: every id
  int64_t count;
  __device__ __forceinline__ Listed(const SampleKernelArgs& args, const SampleRow& row, int64_t at)
      : logits(args.logits + row.row * args.vocab_size) {
    const uint32_t listed = args.scratch.listed[at];
    list = listed <= kSampleListed ? args.scratch.lists + at * kSampleListed : nullptr;
    count = listed <= kSampleListed ? listed : args.vocab_size;
  }
  // do_this(logit, place) for this thread's share of those from `least` on.
  template <class Do>
  __device__ __forceinline__ void each(Place least, Do do_this) const {
    for (int64_t i = threadIdx.x; i < count; i += kThreads) {
      const int64_t id = list != nullptr ? list[i] : i;
      const float logit = logits[id];
      const Place place = place_of(logit, id);
      if (place >= least) do_this(logit, place);
    }
  }
};

// A block: one row's top_logprobs, of which the normaliser is still missing.
__global__ void __launch_bounds__(kThreads) find_top(SampleKernelArgs args) {
  begin_kernel();
  const SampleRow row = args.rows[blockIdx.x];
  Shared& shared = *shared_memory<Shared>();
  const Listed listed(args, row, args.count + blockIdx.x);
  Place before = kNotFinite;
  for (int i = 0; i < row.top_logprobs; ++i) {
    Place next = 0;
    listed.each(0, [&](float, Place place) {
      if (place < before && place > next) next = place;
    });
    before = block_largest(next, shared);
    if (threadIdx.x == 0) {
      args.top_ids[blockIdx.x * kMostTopLogprobs + i] = before == 0 ? 0 : id_of(before);
      args.top_logprobs[blockIdx.x * kMostTopLogprobs + i] = logit_of(before);
    }
  }
}

// Where `wanted` of the listed tokens' mass is reached, the largest place first, as far as the digits from `first` to before `last`
// say, with kFirstOfId those of the id alone. What is known of the place already is in `prefix`, and `wanted` is counted from there.
// mass(logit), 0 for who is not asked.
template <class GetMass>
__device__ __forceinline__ Place find_place(const Listed& listed, Place least, Mass wanted, Place prefix,
                                            int first, int last, const GetMass& mass, Shared& shared) {
  const Place asked = first == kFirstOfId ? kLowestId : ~Place{0};
  const auto known = [&](Digit d) { return ~Place{0} << (d.shift + d.bits) & asked; };
  if (listed.count <= kThreads) {  // so few that each may look at all the others
    Place own_place = 0;
    Mass own = 0;
    listed.each(least, [&](float logit, Place place) {
      if (((place ^ prefix) & known(digit(first))) != 0) return;
      own_place = place & asked;
      own = mass(logit);
    });
    shared.places[threadIdx.x] = own_place;
    shared.masses[threadIdx.x] = own;
    __syncthreads();
    Mass above = 0;
    for (int i = 0; i < listed.count; ++i) above += shared.places[i] > own_place ? shared.masses[i] : 0;
    if (above < wanted && wanted <= above + own)  // one thread
      shared.place = own_place & ~Place{0} << digit(last - 1).shift;
    __syncthreads();
    const Place place = shared.place;
    __syncthreads();
    return place;
  }
  for (int number = first; number < last; ++number) {
    const Digit d = digit(number);
    clear_histogram(shared);
    listed.each(least, [&](float logit, Place place) {
      if (((place ^ prefix) & known(d)) != 0) return;
      const Mass own = mass(logit);
      if (own > 0) shared.histogram.add(static_cast<int>(place >> d.shift & ((1u << d.bits) - 1)), own);
    });
    __syncthreads();
    const Found found = find_bin(shared.histogram, wanted, shared);
    prefix |= static_cast<Place>(found.bin) << d.shift;
    wanted -= found.above;
  }
  return prefix;
}

// The token drawn from those that top_k and top_p leave, the likeliest first where top_p has put them in that order, else by id.
__device__ __forceinline__ int32_t draw_listed(const SampleKernelArgs& args, const SampleRow& row,
                                               const Likelihood& likelihood, Shared& shared) {
  const Listed listed(args, row, blockIdx.x);
  const Border border = border_of(args.scratch.histogram + blockIdx.x * kSampleBins, row, false, shared);
  const Place known = static_cast<Place>(border.found.bin) << digit(0).shift;
  const Mass left = border.wanted - border.found.above;
  const auto likely = [&](float logit) { return likelihood(logit); };
  const auto total_from = [&](Place least, const auto& mass) {
    Mass own = 0;
    listed.each(least, [&](float logit, Place) { own += mass(logit); });
    return block_total(own, shared);
  };
  Place least = known;
  if (row.top_k > 0) {
    least = find_place(
        listed, known, left, known, 1, kFirstOfId, [](float) { return Mass{1}; }, shared);
    if (row.top_p < 1)
      least = find_place(listed, least, share_of(total_from(least, likely), row.top_p), 0, 0, kDigits, likely,
                         shared);
  } else {
    least = find_place(listed, known, left, known, 1, kDigits, likely, shared);
  }
  const auto drawable = [&](float logit) { return likelihood.if_likely(logit); };
  const Mass target = drawn_of(total_from(least, drawable), row.u);
  const int first = row.top_p < 1 ? 0 : kFirstOfId;
  return id_of(find_place(listed, least, target, 0, first, kDigits, drawable, shared));
}

// The token drawn from a whole row: its piece, then in it, by id.
__device__ __forceinline__ int32_t draw_any(const SampleKernelArgs& args, const SampleRow& row,
                                            const Likelihood& likelihood, Shared& shared) {
  const int64_t pieces = sample_pieces(args.vocab_size);
  const SamplePiece* const of_row = args.scratch.pieces + blockIdx.x * pieces;
  Mass own = 0;
  for (int64_t piece = threadIdx.x; piece < pieces; piece += kThreads) own += of_row[piece].mass;
  Mass wanted = drawn_of(block_total(own, shared), row.u);
  int64_t piece = 0;
  while (piece < pieces - 1 && of_row[piece].mass < wanted) wanted -= of_row[piece++].mass;
  constexpr int64_t kIds = kSamplePiece / kThreads;
  const float* const logits = args.logits + row.row * args.vocab_size;
  const int64_t first = piece * kSamplePiece + threadIdx.x * kIds, end = min(first + kIds, args.vocab_size);
  own = 0;
  for (int64_t id = first; id < end; ++id) own += likelihood.if_likely(logits[id]);
  Mass before = mass_before(own, shared);
  if (before < wanted && wanted <= before + own) {  // one thread
    int64_t id = first;
    while ((before += likelihood.if_likely(logits[id])) < wanted) ++id;
    shared.found = static_cast<int>(id);
  }
  __syncthreads();
  return shared.found;
}

// log(sum of exp(logit)) over the pieces, in their order.
__device__ __forceinline__ double log_sum_exp(const SampleKernelArgs& args) {
  const int64_t pieces = sample_pieces(args.vocab_size);
  const SamplePiece* const of_row = args.scratch.pieces + blockIdx.x * pieces;
  double top = of_row[0].own_top, sum = 0;
  for (int64_t i = 1; i < pieces; ++i) top = fmax(top, static_cast<double>(of_row[i].own_top));
  for (int64_t i = 0; i < pieces; ++i) sum += of_row[i].own_sum * exp(of_row[i].own_top - top);
  return top + ::log(sum);
}

// A block: one row's answer.
__global__ void __launch_bounds__(kThreads, 1) choose(SampleKernelArgs args) {
  begin_kernel();
  Shared& shared = *shared_memory<Shared>();
  const SampleRow row = args.rows[blockIdx.x];
  const Place best = best_of(args, blockIdx.x, shared);
  SampleOutcome outcome = SampleOutcome::token;
  int32_t id = 0;
  if (best == kNotFinite) {
    outcome = SampleOutcome::not_finite;
  } else if (row.forced >= 0) {
    id = row.forced;
  } else if (key_of_place(best) <= kNever) {
    outcome = SampleOutcome::all_forbidden;
  } else if (row.temperature == 0 || key_of_place(best) >= kInfinite) {
    id = id_of(best);
  } else {
    const Likelihood likelihood(row, logit_of(best), args.vocab_size);
    id =
        is_listed(row) ? draw_listed(args, row, likelihood, shared) : draw_any(args, row, likelihood, shared);
  }
  if (threadIdx.x != 0) return;
  args.ids[blockIdx.x] = id;
  args.outcomes[blockIdx.x] = outcome;
  args.logprobs[blockIdx.x] = 0;
  if (!row.logprobs || outcome != SampleOutcome::token) return;
  const double normaliser = log_sum_exp(args);
  const int32_t edit = first_edit(args, row, id);
  const float own = edit < row.first_edit + row.edits && args.edits[edit].id == id
                        ? args.scratch.originals[edit]
                        : args.logits[row.row * args.vocab_size + id];
  args.logprobs[blockIdx.x] = static_cast<float>(own - normaliser);
  for (int i = 0; i < row.top_logprobs; ++i) {
    float& top = args.top_logprobs[blockIdx.x * kMostTopLogprobs + i];
    top = static_cast<float>(top - normaliser);
  }
}

}  // namespace

void sample(Stream& stream, const SampleKernelArgs& args) {
  const Grid pieces(sample_pieces(args.vocab_size), args.count), rows(args.count);
  if (args.any_top_logprobs) {
    launch(stream, count_own, pieces, kThreads, sizeof(Shared), args);
    launch(stream, collect<true>, pieces, kThreads, sizeof(Shared), args);
    launch(stream, find_top, rows, kThreads, sizeof(Shared), args);
  }
  launch(stream, scan, pieces, kThreads, sizeof(Shared), args);
  if (args.any_drawn) launch(stream, weigh, pieces, kThreads, sizeof(Shared), args);
  if (args.any_listed) launch(stream, collect<false>, pieces, kThreads, sizeof(Shared), args);
  launch(stream, choose, rows, kThreads, sizeof(Shared), args);
}

}  // namespace qwen::cuda
