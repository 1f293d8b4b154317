// CudaBackend::moe. The choice of experts stays on the device: nothing here waits for it.
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/moe.h"
#include "base/error.h"

namespace qwen::cuda {
namespace {

// Rows of a workspace are as large as int32.
int32_t* integers(Workspace& workspace, int64_t count) {
  static_assert(sizeof(int32_t) == sizeof(float));
  return static_cast<int32_t*>(workspace.rows(1, count).data);
}

}  // namespace

void CudaBackend::moe(Workspace& workspace, Rows x, const MoeArgs& args, Rows out) {
  const Element element = own(*args.experts.front().gate).element;
  counted(Op::moe, element);
  std::vector<const void*> matrices;  // all gates, all ups, all downs
  for (const auto member : {&Expert::gate, &Expert::up, &Expert::down}) {
    for (const Expert& expert : args.experts) {
      const CudaWeight& matrix = own(*(expert.*member));
      if (matrix.element != element)
        fail(Status::unsupported,
             "the experts of a layer are partly float16 numbers that bfloat16 can hold and partly not: on a "
             "GPU they have to be all alike; option 'device' = 'cpu' takes them");
      matrices.push_back(matrix.memory.data());
    }
  }
  const void* const* const of_experts =
      put_once(experts_[args.experts.data()], std::span<const void* const>(matrices));

  const auto count = static_cast<int64_t>(args.experts.size()), assignments = x.rows * args.top_k;
  const Workspace::Mark start = workspace.mark();
  const Rows logits = workspace.rows(x.rows, count);
  linear(x, std::array{Projection{.weight = args.router, .out = logits, .exact = true}});
  Routing routing{.rows = x.rows, .experts = count, .top_k = args.top_k};
  routing.chosen = integers(workspace, assignments);
  routing.weights = static_cast<float*>(workspace.rows(x.rows, args.top_k).data);
  routing.members = integers(workspace, count * x.rows);
  routing.counts = integers(workspace, count);
  routing.active = integers(workspace, routing.most_active());
  route(*stream_,
        {.logits = static_cast<const float*>(logits.data), .normalise = args.normalise, .to = routing});

  const bool as_operands = takes_operand(*args.experts.front().gate);
  const Rows hidden = workspace.rows(assignments, args.inner, as_operands ? Form::operand : Form::plain);
  run_experts(*stream_, {.routing = routing,
                         .x = as_operands ? as_operand(x) : x.data,
                         .x_element = as_operands ? Element::bf16 : Element::f32,
                         .weight_element = element,
                         .width = x.width,
                         .inner = args.inner,
                         .gates = of_experts,
                         .ups = of_experts + count,
                         .downs = of_experts + 2 * count,
                         .aligned = true,  // as whatever is allocated
                         .hidden = hidden.data,
                         .answers = static_cast<float*>(workspace.rows(assignments, x.width).data),
                         .out = static_cast<float*>(out.data)});
  workspace.rewind(start);
}

}  // namespace qwen::cuda
