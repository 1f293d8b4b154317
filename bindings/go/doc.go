// Package qwen runs Qwen models inside a Go program, by way of libqwen.so and its C header qwen.h.
//
//	llm, err := qwen.NewLLM(qwen.NewConfig("path/to/Qwen3-0.6B"))
//	if err != nil {
//		return err
//	}
//	defer llm.Close()
//
//	params := qwen.NewSamplingParams(qwen.WithTemperature(0.6), qwen.WithMaxTokens(256))
//	for event, err := range llm.Generate(ctx, qwen.Text("Why is the sky blue?"), params) {
//		if err != nil {
//			return err
//		}
//		fmt.Print(event.Text)
//	}
//
// # Requests
//
// [LLM.Generate] streams one answer, [LLM.Complete] and [LLM.Chat] return a whole one, [LLM.GenerateBatch] and
// [LLM.GenerateSimple] many. One [LLM] serves any number of goroutines: what they ask is computed together, and for the
// same prompt, parameters and seed each gets the same bits as if it were alone. Waiting costs a goroutine and no thread:
// the events of all requests come through one descriptor that the Go runtime polls.
//
// [LLM.Embed] and [LLM.Rerank] serve searching, [Tokenizer] works without weights.
//
// # Options
//
// The With… functions of [ConfigOption] and [SamplingOption] are written from the library's own table, which [Options]
// lists. What is not set comes from the environment (QWEN_ and the key in capitals, for a [Config] only), the checkpoint's
// generation_config.json, or the table. Values are checked by the library, where they are used; the error names the key,
// the value and what is allowed.
//
// # Errors
//
// A failed call returns an [*Error]; errors.Is tells its [Status] ([ErrNotFound], [ErrInvalidArgument], …) and the matching
// errors of the standard library (fs.ErrNotExist, errors.ErrUnsupported, os.ErrClosed, os.ErrDeadlineExceeded). A context
// that ends cancels the computation; the call waits until the engine has let go of the request, which takes one step at
// most, and its error is both [ErrCancelled] and the context's own.
//
// # Building
//
// The package is compiled by cgo and needs a C compiler and pkg-config, which must know "qwen": put the folder of qwen.pc
// into PKG_CONFIG_PATH. With the build tag qwen_static the library becomes part of the program (qwen-static.pc), which then
// needs no libqwen.so where it runs. Go's build cache does not notice another answer of pkg-config: after installing libqwen
// in another place or version, run "go clean -cache".
package qwen
