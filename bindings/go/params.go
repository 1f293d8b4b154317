package qwen

// SamplingParams say how answers are drawn: a list of [SamplingOption], made once and used for any number of requests, by
// any number of goroutines at once. nil means all defaults.
type SamplingParams struct{ options []Option }

// NewSamplingParams collects sampling options. Of an option given twice the last one counts. The library checks them when
// they are used.
func NewSamplingParams(options ...SamplingOption) *SamplingParams {
	params := &SamplingParams{}
	for _, option := range options {
		if option != nil {
			option.sample(params)
		}
	}
	return params
}

// With returns a copy with more options.
func (p *SamplingParams) With(options ...SamplingOption) *SamplingParams {
	return NewSamplingParams(append([]SamplingOption{p}, options...)...)
}

func (p *SamplingParams) sample(params *SamplingParams) {
	if p != nil {
		params.options = append(params.options, p.options...)
	}
}

func (p *SamplingParams) retrieve(asked *retrieval) {
	if p != nil {
		asked.options = append(asked.options, p.options...)
	}
}
