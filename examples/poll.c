/* Answers many questions at once on one thread: their events meet in a queue, whose descriptor an event loop can wait for
 * beside its sockets and timers. Each answer is printed as soon as it is complete.
 *
 *     cc poll.c $(pkg-config --cflags --libs qwen) -o poll
 *     ./poll path/to/Qwen3-0.6B "Why is the sky blue?" "Why is grass green?" "Why is snow white?"
 */
#include <errno.h>
#include <poll.h>
#include <qwen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int submit(qwen_engine *engine, qwen_queue *queue, const char *question, uint64_t tag, qwen_request **request,
                  qwen_error **error) {
  qwen_prompt *prompt = NULL;
  int failed = qwen_prompt_new(&prompt, error) ||
               qwen_prompt_add_message(prompt, "user", question, strlen(question), error) ||
               qwen_submit(engine, prompt, NULL, queue, tag, request, error);
  qwen_prompt_free(prompt); /* it was copied */
  return failed;
}

static int print_answer(const char *question, const qwen_request *request, qwen_error **error) {
  qwen_result *result = NULL;
  qwen_choice choice = {.struct_size = sizeof choice};
  int failed = qwen_request_result(request, &result, error) || qwen_result_choice_get(result, 0, &choice, error);
  if (!failed) printf("%s\n  %s\n", question, choice.text);
  fflush(stdout);
  qwen_result_free(result);
  return failed;
}

/* Takes the events that have come. Returns how many requests they ended, or -1. */
static int take_events(qwen_queue *queue, char **questions, qwen_error **error) {
  qwen_event event = {.struct_size = sizeof event};
  size_t count = 0;
  int ended = 0;
  if (qwen_queue_next(queue, 0, &count, error)) return -1;
  for (size_t i = 0; i < count; ++i) {
    if (qwen_queue_event(queue, i, &event, error)) return -1;
    if (event.type != QWEN_EVENT_DONE) continue; /* TEXT events would be shown here, told apart by event.tag */
    ++ended;
    if (event.status != QWEN_OK)
      fprintf(stderr, "%s\n  %s: %s\n", questions[event.tag], qwen_status_name(event.status), event.message);
    else if (print_answer(questions[event.tag], event.request, error))
      return -1;
  }
  return ended;
}

int main(int argc, char **argv) {
  qwen_engine *engine = NULL;
  qwen_queue *queue = NULL;
  qwen_error *error = NULL;
  if (argc < 3) return fprintf(stderr, "usage: %s MODEL_FOLDER QUESTION…\n", argv[0]), 2;
  char **questions = argv + 2;
  int count = argc - 2, left = count;
  qwen_request **requests = calloc((size_t)count, sizeof *requests);
  if (!requests) return perror("calloc"), 1;

  int failed = qwen_create(argv[1], NULL, &engine, &error) || qwen_queue_new(&queue, &error);
  for (int i = 0; i < count && !failed; ++i)
    failed = submit(engine, queue, questions[i], (uint64_t)i, &requests[i], &error);

  struct pollfd wait = {.fd = qwen_queue_fd(queue), .events = POLLIN}; /* further descriptors of the host would follow */
  while (!failed && left > 0) {
    if (poll(&wait, 1, -1) < 0) {
      if (errno == EINTR) continue;
      return perror("poll"), 1;
    }
    int ended = take_events(queue, questions, &error);
    failed = ended < 0;
    left -= ended;
  }
  if (failed) fprintf(stderr, "%s: %s\n", qwen_status_name(qwen_error_code(error)), qwen_error_message(error));

  qwen_error_free(error);
  for (int i = 0; i < count; ++i) qwen_request_free(requests[i]);
  free(requests);
  qwen_queue_free(queue);
  qwen_destroy(engine);
  return failed;
}
