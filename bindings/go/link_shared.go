//go:build !qwen_static

package qwen

// #cgo pkg-config: qwen
import "C"
