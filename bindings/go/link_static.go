//go:build qwen_static

package qwen

// #cgo pkg-config: qwen-static
import "C"
